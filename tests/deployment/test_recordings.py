"""Recordings as people have them: what is read, measured and refused."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from speaker_verification.audio.files import read_audio
from speaker_verification.audio.speech import speech_seconds
from speaker_verification.common.errors import ParameterError, UserError
from speaker_verification.corpora.synthetic.voices import draw_voices, speak
from speaker_verification.deployment import recordings
from speaker_verification.deployment.recordings import (
    Reason,
    RecordingError,
    RecordingLimits,
    read_recording,
    read_waveform,
)
from tests.support.floors import PROJECT
from tests.support.recordings import FORMATS, babble, encoded

ANY_SOUND = RecordingLimits(least_speech_seconds=0)
LEVEL = 20 * np.log10(0.5)


def as_wav(samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def refused(source: Any, limits: RecordingLimits = ANY_SOUND) -> RecordingError:
    with pytest.raises(RecordingError) as caught:
        read_recording(source, limits)
    error = caught.value
    assert isinstance(error, UserError)
    assert error.reason in get_args(Reason)
    assert str(error) == f"{error.name}: {error.detail}"
    assert "\n" not in str(error)
    return error


def aligned_correlation(wave: np.ndarray, expected: np.ndarray) -> float:
    """Largest correlation of the middle of a wave with what was encoded, over delays of codecs."""
    middle = wave[8_000:24_000]
    around = expected[8_000 - 2_400 : 24_000 + 200]
    products = fftconvolve(around, middle[::-1], mode="valid")
    norms = np.sqrt(fftconvolve(around**2, np.ones(len(middle)), mode="valid"))
    return float((products / norms).max() / np.linalg.norm(middle))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_as_16_khz_mono(form: str, rate: int, channels: int) -> None:
    container, codec = FORMATS[form]
    if codec == "libopus" and rate == 44_100:
        rate = 48_000
    recording = read_recording(encoded(babble(2.0, rate, channels), rate, container, codec), ANY_SOUND)
    assert recording.waveform.dtype == np.float32
    assert recording.waveform.ndim == 1
    assert recording.seconds == len(recording.waveform) / 16_000
    # AAC and Vorbis work in frames of up to 2048 samples, of which up to two are added.
    slack = 2 * 2_048 / rate if codec in ("aac", "vorbis") else 0.01
    assert 2.0 - 0.02 <= recording.seconds <= 2.0 + slack
    assert recording.whole_seconds == recording.seconds
    assert recording.clipped_fraction == 0
    assert aligned_correlation(recording.waveform, babble(2.0, 16_000)[0]) > 0.9
    assert not [remark for remark in recording.remarks if "speech" not in remark]


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_the_samples_are_those_of_preparation(subtype: str) -> None:
    wave = babble(2.0, 16_000)[0]
    source = as_wav(wave, subtype=subtype)
    assert np.array_equal(read_recording(source, ANY_SOUND).waveform, read_audio(source))


def test_a_16_bit_16_khz_mono_file_keeps_every_sample(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-20_000, 20_000, 40_000).astype(np.int16)
    path = tmp_path / "a.wav"
    path.write_bytes(as_wav(samples))
    recording = read_recording(path, ANY_SOUND)
    assert np.array_equal(recording.waveform, samples / np.float32(32_768))
    assert recording.name == str(path)
    with path.open("rb") as file:
        assert np.array_equal(read_recording(file, ANY_SOUND).waveform, recording.waveform)
    assert read_recording(path, ANY_SOUND, name="Anna's call").name == "Anna's call"


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", ["(samples,)", "(channels, samples)", "(samples, channels)"])
def test_arrays_are_read_as_files_of_the_same_samples(dtype: type, shape: str) -> None:
    whole = np.int32(2**16) if dtype is np.int32 else np.int16(1)
    wave = (babble(1.5, 22_050)[0] * 32_767).astype(np.int16)
    other = wave[::-1] // 2
    channels = np.stack([wave, wave if shape == "(samples,)" else other])
    expected = read_recording(as_wav(channels.T, 22_050), ANY_SOUND)
    array = channels / 32_768 if np.dtype(dtype).kind == "f" else channels.astype(dtype) * whole
    array = {"(samples,)": array[0], "(channels, samples)": array, "(samples, channels)": array.T}[shape]
    recording = read_recording((array.astype(dtype), 22_050), ANY_SOUND)
    assert recording.name == "array"
    assert recording.whole_seconds == pytest.approx(1.5, abs=1e-4)
    # What is not 16-bit is resampled in its own precision and rounded once, at the end.
    assert np.abs(recording.waveform - expected.waveform).max() <= 2 / 32_768
    assert recording.peak_dbfs == pytest.approx(expected.peak_dbfs, abs=0.01)


def test_the_sound_of_a_film_is_read() -> None:
    source = encoded(babble(2.0, 44_100, 2), 44_100, "mp4", "aac", with_picture=True)
    recording = read_recording(source, ANY_SOUND)
    assert aligned_correlation(recording.waveform, babble(2.0, 16_000)[0]) > 0.9


@pytest.mark.parametrize("form", ["mp4", "opus", "flac"])
def test_eight_channels_are_read(form: str) -> None:
    source = encoded(babble(2.0, 48_000, 8), 48_000, *FORMATS[form])
    recording = read_recording(source, ANY_SOUND)
    assert aligned_correlation(recording.waveform, babble(2.0, 16_000)[0]) > 0.9
    assert recording.clipped_fraction == 0


class CountingFile(io.BytesIO):
    """Bytes of a file that counts those that are read."""

    num_read = 0

    def read(self, size: int | None = -1) -> bytes:
        read = super().read(size)
        self.num_read += len(read)
        return read


@pytest.mark.parametrize(("form", "minutes"), [("wav", 10), ("flac", 10), ("mp4", 2)])
def test_decoding_stops_at_the_limit(form: str, minutes: int) -> None:
    container, codec = FORMATS[form]
    start = babble(4.0, 16_000)
    file = CountingFile(encoded(np.tile(start, 15 * minutes), 16_000, container, codec))
    size = len(file.getvalue())
    recording = read_recording(file, RecordingLimits(least_speech_seconds=0, max_seconds=3.0))
    assert len(recording.waveform) == 48_000
    assert recording.seconds == 3.0
    assert recording.whole_seconds == pytest.approx(60 * minutes, abs=0.2)
    assert recording.remarks[0] == f"the first 3 s of {60 * minutes} s are used"
    assert file.num_read < size / 5
    assert aligned_correlation(recording.waveform, start[0]) > 0.9


def test_a_cut_recording_has_the_samples_of_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = babble(12.0, 44_100, 2)
    source = as_wav(wave.T, 44_100)
    whole = read_recording(source, RecordingLimits(least_speech_seconds=0, max_seconds=None))
    cut = RecordingLimits(least_speech_seconds=0, max_seconds=2.5)
    assert whole.seconds == pytest.approx(12.0, abs=0.001)
    assert np.array_equal(read_recording(source, cut).waveform, whole.waveform[:40_000])
    of_array = read_recording((wave, 44_100), cut)
    assert np.abs(of_array.waveform - whole.waveform[:40_000]).max() <= 2 / 32_768
    assert of_array.whole_seconds == 12.0
    exact = RecordingLimits(least_speech_seconds=0, max_seconds=12.0)
    assert not read_recording(as_wav(np.resize(wave[0], 12 * 16_000)), exact).remarks
    monkeypatch.setattr(recordings, "LONGEST_SECONDS", 5.0)
    assert refused(source, RecordingLimits(max_seconds=None)).reason == "too_long"


def test_peak_and_clipping_are_measured_on_the_source() -> None:
    square = np.where(np.arange(48_000) % 160 < 80, 0.5, -0.5)
    assert read_recording((square, 16_000), ANY_SOUND).peak_dbfs == pytest.approx(LEVEL)
    square[:2_400] *= 2  # 2400 of 48000 samples at full scale, in one channel of two
    stereo = np.stack([square, np.full(48_000, 0.25)])
    recording = read_recording((stereo, 16_000), ANY_SOUND)
    assert recording.clipped_fraction == 2_400 / 96_000
    assert recording.peak_dbfs == 0
    assert any("2.5 %" in remark for remark in recording.remarks)
    strict = RecordingLimits(least_speech_seconds=0, refused_clipped_fraction=0.02)
    error = refused((stereo, 16_000), strict)
    assert error.reason == "clipped"
    assert "2.5 %" in str(error)
    lenient = RecordingLimits(least_speech_seconds=0, remarked_clipped_fraction=0.025)
    assert not any("clipped" in remark for remark in read_recording((stereo, 16_000), lenient).remarks)


def test_a_clipped_telephone_call_is_seen() -> None:
    wave = np.clip(10 * babble(2.0, 8_000), -1, 1)
    assert refused(encoded(wave, 8_000, "wav", "pcm_mulaw")).reason == "clipped"


QUIET = np.full(32_000, 0.0009)
LOUD = 0.5 * np.sin(np.arange(32_000))


@pytest.mark.parametrize(
    ("reason", "source"),
    [
        ("empty", b""),
        ("undecodable", b"garbage" * 5_000),
        ("undecodable", np.random.default_rng(0).bytes(50_000)),
        (
            "undecodable",
            encoded(babble(1.5, 44_100), 44_100, "mp4", "aac")[:9_000],
        ),  # its index is at the end
        ("no_sound", encoded(babble(1.5, 44_100), 44_100, "mp4", "", with_picture=True)),
        ("too_short", as_wav(np.full(3_200, 0.5))),
        ("too_short", as_wav(np.zeros(0))),
        ("silent", as_wav(np.zeros(32_000))),
        ("silent", (QUIET, 16_000)),
        ("silent", (np.stack([LOUD, -LOUD]), 16_000)),
        ("clipped", (np.sign(LOUD), 16_000)),
        ("not_finite", (np.where(np.arange(32_000) == 31_000, np.nan, LOUD), 16_000)),
        ("not_finite", as_wav(np.where(np.arange(32_000) == 31_000, np.inf, LOUD), subtype="FLOAT")),
        ("out_of_range", (LOUD * 32_768, 16_000)),
        ("sample_rate", (LOUD, 16)),
        ("sample_rate", (LOUD, 16_000.5)),
        ("sample_rate", as_wav(LOUD, 1_000)),
        ("shape", (np.zeros((40, 50)), 16_000)),
        ("shape", (np.zeros((2, 2, 32_000)), 16_000)),
        ("shape", (np.zeros(32_000, np.int64), 16_000)),
        ("unreadable", "/no/such/file.wav"),
        ("unreadable", "/dev/zero"),
        ("unreadable", "/"),
        ("unreadable", io.StringIO("text")),
        ("unreadable", "http://127.0.0.1:9/a.wav"),
    ],
)
def test_what_cannot_be_used_is_refused_by_a_named_reason(reason: str, source: Any) -> None:
    assert refused(source).reason == reason


@pytest.mark.parametrize(
    ("limits", "waveform", "reason"),
    [
        (ANY_SOUND, QUIET, "silent"),
        (ANY_SOUND, np.zeros(0), "too_short"),
        (ANY_SOUND, LOUD[:3_200], "too_short"),
        (ANY_SOUND, np.sign(LOUD), "clipped"),
        (ANY_SOUND, np.where(np.arange(32_000) == 31_000, np.nan, LOUD), "not_finite"),
        (ANY_SOUND, LOUD * 32_768, "out_of_range"),
        (RecordingLimits(), LOUD, "too_little_speech"),
        (ANY_SOUND, LOUD.reshape(2, -1), "shape"),
        (ANY_SOUND, (LOUD * 32_768).astype(np.int16), "shape"),
    ],
)
def test_a_waveform_is_refused_as_a_file_is(
    limits: RecordingLimits, waveform: np.ndarray, reason: str
) -> None:
    with pytest.raises(RecordingError) as caught:
        read_waveform(waveform, limits, "array")
    assert caught.value.reason == reason
    if reason != "shape":  # as an array of some rate it may have channels and be of integers
        assert str(caught.value) == str(refused((waveform, 16_000), limits))


def test_a_waveform_is_described_as_a_file_is_and_keeps_its_samples() -> None:
    wave = 0.5 * np.sin(np.arange(80_000))
    wave[:200] = 1.0  # 200 of the 32,000 samples that are used
    limits = RecordingLimits(least_speech_seconds=0, max_seconds=2.0)
    as_array, recording = read_recording((wave, 16_000), limits), read_waveform(wave, limits, "array")
    assert np.array_equal(recording.waveform, wave[:32_000].astype(np.float32))
    assert recording.clipped_fraction == 200 / 32_000
    assert recording.remarks == (
        "the first 2 s of 5 s are used",
        "clipped: 0.6 % of the samples are at full scale",
    )
    for name in ("name", "seconds", "whole_seconds", "peak_dbfs", "speech_seconds"):
        assert getattr(recording, name) == getattr(as_array, name)
    assert as_array.remarks[0] == recording.remarks[0]


def test_limits_are_closed_at_their_own_value() -> None:
    exact = as_wav(0.5 * np.sin(np.arange(24_000)))
    assert read_recording(exact, RecordingLimits(least_seconds=1.5, least_speech_seconds=0)).seconds == 1.5
    error = refused(exact, RecordingLimits(least_seconds=1.6, least_speech_seconds=0))
    assert error.reason == "too_short"
    assert "1.50 s" in str(error)
    assert "1.6" in str(error)
    with pytest.raises(ParameterError, match=r"max_seconds 0\.5 .* least_seconds 1"):
        RecordingLimits.parse({"max_seconds": 0.5}, "")


def test_an_error_goes_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(refused(b"")))
    assert (error.name, error.reason, str(error)) == ("recording", "empty", str(refused(b"")))


@pytest.mark.parametrize("form", ["flac", "mp3", "aac", "webm", "opus"])
def test_a_file_that_was_cut_off_is_used_as_far_as_it_goes(form: str) -> None:
    container, codec = FORMATS[form]
    source = encoded(babble(6.0, 48_000), 48_000, container, codec)
    recording = read_recording(source[: len(source) // 2], ANY_SOUND)
    assert 2.0 < recording.seconds < 4.0
    assert recording.whole_seconds == recording.seconds
    assert aligned_correlation(recording.waveform, babble(6.0, 16_000)[0]) > 0.9
    if form in ("flac", "webm"):
        assert any(re.search(r"(after|ends after) \d\.\d s", remark) for remark in recording.remarks)


def test_nothing_but_the_given_bytes_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(as_wav(LOUD))
    playlists = {
        "a.ffconcat": f"ffconcat version 1.0\nfile '{secret.name}'\n",
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "a.mpd": f'<?xml version="1.0"?>\n<MPD><Period><AdaptationSet contentType="audio">'
        f'<Representation id="0"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
    with av.open(str(tmp_path / "a.ffconcat")) as container:  # libav by itself would open it
        assert len(container.streams.audio) == 1
    for name, text in playlists.items():
        assert refused(tmp_path / name).reason == "undecodable"
        assert refused(text.encode()).reason == "undecodable"
    for address in (f"concat:{secret}|{secret}", f"file:{secret}", f"subfile,,start,0,end,0,,:{secret}"):
        assert refused(address).reason == "unreadable"


def test_speech_is_measured() -> None:
    rng = np.random.default_rng(3)
    (voice,) = draw_voices(1, rng)
    said = speak(voice, 3.0, rng).astype(np.float32)
    said *= 0.5 / np.abs(said).max()
    pause = np.zeros(48_000, np.float32)
    recording = read_recording((np.concatenate([pause, said, pause]), 16_000))
    assert recording.speech_seconds == pytest.approx(len(said) / 16_000, abs=0.5)
    error = refused((np.concatenate([pause, said[:8_000], pause]), 16_000), RecordingLimits())
    assert error.reason == "too_little_speech"
    for other in (LOUD, 0.1 * rng.standard_normal(48_000)):
        assert speech_seconds(other.astype(np.float32)) == 0
        assert refused((other, 16_000), RecordingLimits()).reason == "too_little_speech"


def test_speech_is_not_guessed_without_the_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "speech_seconds", lambda waveform: None)
    recording = read_recording((LOUD, 16_000))
    assert recording.speech_seconds is None
    assert any("speaker-verification[speech]" in remark for remark in recording.remarks)


def test_the_page_has_every_reason_and_every_limit() -> None:
    page = (PROJECT / "docs" / "deployment.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert [row for row in rows if row in get_args(Reason)] == list(get_args(Reason))
    for limit, field in RecordingLimits.model_fields.items():
        default = "none" if field.default is None else f"{field.default:g}"
        assert f"| `{limit}` | {default} |" in page
