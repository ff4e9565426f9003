"""Lengths of encoded recordings, beside those that decoding gives."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from speaker_verification.audio import probing
from speaker_verification.audio.files import AudioError, AudioInfo, decode_audio, encode_audio
from speaker_verification.audio.probing import plain_aac_samples, probe_audio
from tests.support.recordings import FORMATS, encoded

MEASURED = ("wav", "telephone.wav", "24 bit.wav", "flac", "m4a", "mp4")
LENGTHS = (1, 700, 1_024, 9_215, 33_333)


def noise(num_samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(num_samples).uniform(-0.5, 0.5, (channels, num_samples))


def aac(num_samples: int, movie_rate: int) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="ipod", options={"movie_timescale": str(movie_rate)}) as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        wave = (30_000 * noise(num_samples)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def refuse_to_decode(source: bytes, name: str) -> np.ndarray:
    raise AssertionError(f"{name} was decoded")


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("format", FORMATS)
def test_the_length_is_that_of_the_decoded_samples(format: str, rate: int) -> None:
    for num_samples in LENGTHS:
        for channels in (1, 2):
            source = encoded(noise(num_samples, channels), rate, *FORMATS[format])
            try:
                decoded = decode_audio(source, "a")
            except AudioError as error:
                with pytest.raises(AudioError, match=f"^a: {error.reason}$"):
                    probe_audio(source, "a")
                continue
            expected = AudioInfo(len(decoded), sample_rate=16_000, num_channels=1)
            assert probe_audio(source, "a") == expected, (num_samples, channels)


@pytest.mark.parametrize("rate", [11_025, 22_050, 44_100, 96_000])
def test_the_length_at_another_rate_is_that_of_the_resampled_samples(rate: int) -> None:
    for num_samples in np.random.default_rng(rate).integers(2_000, 60_000, 10):
        source = encoded(noise(num_samples), rate, *FORMATS["flac"])
        assert probe_audio(source, "a").num_samples == len(decode_audio(source, "a")), num_samples


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("format", MEASURED)
def test_the_usual_formats_are_measured_without_decoding(
    monkeypatch: pytest.MonkeyPatch, format: str, rate: int
) -> None:
    source = encoded(noise(30_000), rate, *FORMATS[format])
    expected = len(decode_audio(source, "a"))
    monkeypatch.setattr(probing, "decode_audio", refuse_to_decode)
    assert probe_audio(source, "a").num_samples == expected


@pytest.mark.parametrize("format", MEASURED)
def test_a_cut_or_padded_file_has_the_length_that_decodes(format: str) -> None:
    whole = encoded(noise(40_000), 16_000, *FORMATS[format])
    for source in (whole[: len(whole) // 2], whole[:-777], whole + bytes(2_000)):
        try:
            expected = len(decode_audio(source, "a"))
        except AudioError:
            continue
        assert probe_audio(source, "a").num_samples == expected


def test_a_flac_file_with_a_damaged_frame_has_the_length_that_decodes() -> None:
    whole = encoded(noise(40_000), 16_000, *FORMATS["flac"])
    for position in range(2_000, len(whole), 3_500):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            expected = len(decode_audio(bytes(damaged), "a"))
        except AudioError:
            continue
        assert probe_audio(bytes(damaged), "a").num_samples == expected, position


@pytest.mark.parametrize("movie_rate", [600, 1_000, 16_000, 90_000])
def test_the_length_of_16_khz_aac_is_in_the_tables_of_its_file(movie_rate: int) -> None:
    num_measured = 0
    for num_samples in (500, 1_023, 1_024, 1_025, 30_719, 30_720, 30_721, 55_555):
        source = aac(num_samples, movie_rate)
        decoded = len(decode_audio(source, "a"))
        assert plain_aac_samples(source) in (decoded, None), num_samples
        assert probe_audio(source, "a").num_samples == decoded
        num_measured += plain_aac_samples(source) is not None
        assert plain_aac_samples(source[:-50]) is None
    assert num_measured >= 6


@pytest.mark.parametrize(
    ("mark", "distance"),
    [(b"stsz", 19), (b"stts", 19), (b"elst", 19), (b"mdhd", 19), (b"\x14\x08\x56\xe5", 0), (b"mdat", -2)],
)
def test_unusual_tables_are_left_to_libav(mark: bytes, distance: int) -> None:
    source = aac(20_000, 1_000)
    place = source.index(mark) + distance
    changed = source[:place] + bytes([source[place] ^ 0x55]) + source[place + 1 :]
    assert plain_aac_samples(source) is not None
    assert plain_aac_samples(changed) is None


def test_a_prepared_wav_file_needs_only_its_header() -> None:
    samples = np.arange(20_011, dtype=np.int16)
    assert probe_audio(encode_audio(samples, "wav"), "a") == AudioInfo(20_011, 16_000, 1)


@pytest.mark.parametrize(("source", "reason"), [(b"", "empty file"), (b"text only" * 99, "not audio")])
def test_what_does_not_decode_is_refused_with_the_same_reason(source: bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=f"^id1/v/1.wav: {reason}"):
        probe_audio(source, "id1/v/1.wav")
