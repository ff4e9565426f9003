"""Decoding, writing and reading audio files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile

from speaker_verification.audio import files
from speaker_verification.audio.files import (
    AudioError,
    AudioInfo,
    audio_info,
    decode_audio,
    encode_audio,
    plain_samples,
    read_audio,
    read_segment,
    write_audio,
)
from speaker_verification.corpora.conversion.storing import store_speech
from tests.support.recordings import FORMATS, babble
from tests.support.recordings import encoded as encoded_babble


def encoded(samples: np.ndarray, rate: int, format: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=format, subtype="PCM_16")
    return stream.getvalue()


def tone(frequency: float, seconds: float, rate: int) -> np.ndarray:
    return (10_000 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def encoded_aac(samples: np.ndarray, rate: int) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def libav_samples(source: bytes) -> np.ndarray:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(io.BytesIO(source)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_refused(subtype: str, value: float) -> None:
    samples = np.full(20_000, 0.25)
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format="WAV", subtype=subtype)
    assert np.array_equal(decode_audio(stream.getvalue(), "a"), np.full(20_000, 8_192))
    samples[17_000] = value
    soundfile.write(stream := io.BytesIO(), samples, 16_000, format="WAV", subtype=subtype)
    with pytest.raises(AudioError, match=r"^a: not finite$"):
        decode_audio(stream.getvalue(), "a")


def test_a_recording_without_end_is_not_decoded_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_SAMPLES", 16_000)
    assert len(decode_audio(encoded(np.zeros(16_000, np.int16), 16_000, "FLAC"), "a")) == 16_000
    with pytest.raises(AudioError, match=r"^a: longer than 16000 samples$"):
        decode_audio(encoded(np.zeros(60_000, np.int16), 16_000, "FLAC"), "a")


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_audio_in_the_right_format_comes_through_bit_for_bit(format: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 20_011).astype(np.int16)
    assert np.array_equal(decode_audio(encoded(samples, 16_000, format), "a"), samples)


@pytest.mark.parametrize("chunks", ["before", "after"])
def test_a_prepared_file_with_other_chunks_has_the_samples_that_libav_reads(chunks: str) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 4_001).astype(np.int16)
    whole = encode_audio(samples, "wav")
    more = b"LIST" + (5).to_bytes(4, "little") + b"INFO!" + b"\0"
    source = whole[:36] + more + whole[36:] if chunks == "before" else whole + more
    decoded = plain_samples(source)
    assert decoded is not None
    assert np.array_equal(decoded, libav_samples(source))
    assert np.array_equal(decoded, samples)


@pytest.mark.parametrize("where", [0, 8, 22, 24, 34, 36, 40, 43])
def test_a_wav_file_with_another_header_is_left_to_libav(where: int) -> None:
    source = bytearray(encode_audio(np.arange(4_000, dtype=np.int16), "wav"))
    source[where] ^= 0x40
    assert plain_samples(bytes(source)) is None
    assert plain_samples(bytes(source[: len(source) - 100])) is None


@pytest.mark.parametrize("format", ["flac", "m4a", "mp3", "24 bit.wav"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_start_of_a_recording_has_the_samples_of_the_whole_one(format: str, rate: int) -> None:
    source = encoded_babble(babble(3.0, rate), rate, *FORMATS[format])
    whole = decode_audio(source, "a")
    for least in (1, 20_000, 47_000):
        start = decode_audio(source, "a", least)
        assert least <= len(start) < least + 20_000
        assert np.array_equal(start, whole[: len(start)])
    assert np.array_equal(decode_audio(source, "a", len(whole) + 1), whole)


def test_channels_are_averaged() -> None:
    left, right = tone(300, 0.5, 16_000), tone(700, 0.5, 16_000)
    decoded = decode_audio(encoded(np.stack([left, right], axis=1), 16_000), "a")
    mean = (left.astype(float) + right) / 2
    assert np.abs(decoded - mean).max() <= 1


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_other_rates_are_resampled_to_16_khz(rate: int) -> None:
    decoded = decode_audio(encoded(tone(440, 1.0, rate), rate), "a")
    assert abs(len(decoded) - 16_000) <= 20
    expected = tone(440, 1.0, 16_000)
    middle = slice(2_000, 14_000)
    assert np.corrcoef(decoded[middle], expected[middle])[0, 1] > 0.999


def encoded_adts(samples: np.ndarray, rate: int) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="adts") as container:
        track = container.add_stream("aac", rate=rate, layout="mono" if samples.ndim == 1 else "stereo")
        layout = track.layout.name
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


@pytest.mark.parametrize("rates", [(16_000, 24_000), (44_100, 22_050, 16_000), (16_000, 48_000, 16_000)])
def test_a_rate_that_changes_inside_a_recording_leaves_the_same_sound(rates: tuple[int, ...]) -> None:
    source = b"".join(encoded_adts(tone(440, 1.0, rate), rate) for rate in rates)
    decoded = decode_audio(source, "a")
    # AAC adds up to two frames of 1024 samples to each stretch
    assert 16_000 * len(rates) <= len(decoded) <= sum(16_000 * (1 + 2_048 / rate) for rate in rates) + 50
    for stretch in np.array_split(decoded, len(rates)):
        spectrum = np.abs(np.fft.rfft(stretch[4_000:12_000].astype(float)))
        assert spectrum.argmax() * 16_000 / 8_000 == pytest.approx(440, abs=4)


def test_channels_that_change_inside_a_recording_are_averaged_where_there_are_several() -> None:
    left, right = tone(440, 1.0, 16_000), np.zeros(16_000, np.int16)
    mono, stereo = encoded_adts(left, 16_000), encoded_adts(np.stack([left, right], axis=1), 16_000)
    decoded = decode_audio(mono + stereo, "a").astype(float)
    assert np.abs(decoded[4_000:12_000]).max() == pytest.approx(10_000, rel=0.1)
    assert np.abs(decoded[22_000:30_000]).max() == pytest.approx(5_000, rel=0.1)


def test_aac_decodes_to_the_same_sound_without_encoder_delay() -> None:
    samples = tone(440, 1.0, 16_000)
    decoded = decode_audio(encoded_aac(samples, 16_000), "a")
    assert abs(len(decoded) - len(samples)) <= 1024
    middle = slice(2_000, 14_000)
    assert np.corrcoef(decoded[middle], samples[middle])[0, 1] > 0.99


def test_aac_gives_the_very_samples_of_libavs_resampler() -> None:
    source = encoded_aac((30_000 * np.random.default_rng(3).uniform(-1, 1, 40_000)).astype(np.int16), 16_000)
    expected = libav_samples(source)
    assert {expected.min(), expected.max()} == {-32768, 32767}  # clipped
    assert np.array_equal(decode_audio(source, "a"), expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty file"),
        (b"RIFF but not really a wave file, only text" * 20, "not audio"),
        (encoded(np.zeros(0, np.int16), 16_000), "no samples"),
    ],
)
def test_what_is_not_audio_is_named_with_a_reason(source: bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=f"^id1/v/1.wav: {reason}") as caught:
        decode_audio(source, "id1/v/1.wav")
    assert caught.value.reason.startswith(reason)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, again.reason) == ("id1/v/1.wav", caught.value.reason)


def test_a_file_without_sound_is_not_audio() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=5)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(AudioError, match="no audio stream"):
        decode_audio(stream.getvalue(), "film.mp4")


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", None), ("MP3", None)]
)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_people_read_any_recording_as_preparation_does(
    tmp_path: Path, format: str, subtype: str | None, channels: int, rate: int
) -> None:
    path = tmp_path / f"call.{format.lower()}"
    wave = 0.5 * tone(440, 1.0, rate)[:, None].repeat(channels, axis=1) / 32768
    soundfile.write(path, wave, rate, format=format, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 16_000) < 1_200  # mp3 pads
    spectrum = np.abs(np.fft.rfft(samples[4_000:12_000]))
    assert np.argmax(spectrum) * 2 == 440
    store_speech(path.read_bytes(), tmp_path / "prepared.wav")
    assert np.array_equal(samples, read_segment(tmp_path / "prepared.wav"))


def test_people_read_paths_bytes_and_open_files(tmp_path: Path) -> None:
    encoded_m4a = encoded_aac(tone(440, 0.5, 16_000), 16_000)
    path = tmp_path / "call.m4a"
    path.write_bytes(encoded_m4a)
    expected = decode_audio(encoded_m4a, "a").astype(np.float32) / 32768
    with path.open("rb") as file:
        for source in (path, str(path), encoded_m4a, io.BytesIO(encoded_m4a), file):
            assert np.array_equal(read_audio(source), expected)


def test_what_people_cannot_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    for name, reason in (
        ("absent.wav", "no such file"),
        ("text.wav", "not audio: .+"),
        ("empty.wav", "empty file"),
        ("none.wav", "no samples"),
        ("", "cannot be read: Is a directory"),
    ):
        with pytest.raises(AudioError, match=rf"^{tmp_path / name}: {reason}$"):
            read_audio(tmp_path / name)
    with (
        (tmp_path / "text.wav").open() as file,
        pytest.raises(AudioError, match=r"text\.wav: opened as text"),
    ):
        read_audio(cast(Any, file))
    with pytest.raises(AudioError, match=r"^audio: empty file$"):
        read_audio(b"")


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_written_audio_is_read_back_by_segments(tmp_path: Path, extension: str) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 5_000).astype(np.int16)
    path = tmp_path / "id1" / "v" / f"1.{extension}"
    write_audio(path, samples)
    assert soundfile.info(path).format == extension.upper()
    assert audio_info(path) == AudioInfo(num_samples=5_000, sample_rate=16_000, num_channels=1)
    assert audio_info(path.read_bytes()) == audio_info(path)
    assert soundfile.info(path).subtype == "PCM_16"
    scaled = samples.astype(np.float32) / 32768
    assert np.array_equal(read_segment(path), scaled)
    assert np.array_equal(read_segment(path, 1_234, 777), scaled[1_234:2_011])
    assert read_segment(path, 4_990).dtype == np.float32
    assert np.array_equal(read_segment(path, 4_990), scaled[4_990:])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "1.wav"
    write_audio(path, np.ones(10, np.int16))
    with pytest.raises(ValueError, match="invalid literal"):
        write_audio(path, np.array(["no", "samples"]))  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["1.wav"]
    assert audio_info(path).num_samples == 10


def test_one_channel_of_several_is_picked(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    both = np.stack([np.full(100, 1_000), np.full(100, -2_000)], axis=1).astype(np.int16)
    soundfile.write(path, both, 16_000)
    assert np.array_equal(read_segment(path, 10, 5, channel=1), np.full(5, -2_000 / 32768, np.float32))
    with pytest.raises(AudioError, match="2 channels and none was chosen"):
        read_segment(path)
    with pytest.raises(AudioError, match="no channel 2 among 2"):
        read_segment(path, channel=2)


@pytest.mark.parametrize(("start", "num_samples"), [(-1, 5), (0, 101), (101, None), (50, -1)])
def test_a_segment_outside_the_file_is_refused(tmp_path: Path, start: int, num_samples: int | None) -> None:
    path = tmp_path / "1.wav"
    write_audio(path, np.ones(100, np.int16))
    with pytest.raises(AudioError, match="in a file of 100"):
        read_segment(path, start, num_samples)


def test_missing_foreign_and_wrong_rate_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        read_segment(tmp_path / "absent.wav")
    (tmp_path / "text.wav").write_text("not audio at all")
    with pytest.raises(AudioError, match="not audio"):
        audio_info(tmp_path / "text.wav")
    soundfile.write(tmp_path / "slow.wav", np.zeros(100, np.int16), 8_000)
    with pytest.raises(AudioError, match="8000 Hz instead of 16000"):
        read_segment(tmp_path / "slow.wav")
