"""Recordings as people have them: decoded within limits, measured, and refused for a reason with a name."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from speaker_verification.audio.files import SCALE, BlockConverter, decoded_blocks, samples_of
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.speech import speech_seconds
from speaker_verification.common.errors import DataError
from speaker_verification.common.settings_base import Settings

LONGEST_SECONDS = 2 * 3600.0  # of a recording that is used whole: 460 MB of samples
LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000  # Hz
MAX_CHANNELS = 32  # of an array
FULL_SCALE = 0.98  # clipped from here on: the largest sample of mu-law, the telephone's, is 0.980
LARGEST_SAMPLE = 16.0  # of decoded sound, where 1 is full scale: beyond are numbers that nobody scaled
FORMATS = "wav, flac, mp3, m4a, mp4, aac, ogg, opus, webm"
_DEMUXERS = "wav,flac,mp3,mov,aac,ogg,matroska"  # of FORMATS, and no playlist among them
_SAFE = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}
_ESTIMATED_LENGTHS = ("mp3", "aac")  # demuxers that estimate a length where no header tells it
_WHOLE_SHARE = 0.95  # of the length in the header, from which on a file counts as whole
_ARRAY_SUBTYPES = {  # of a WAV file that holds an array
    np.dtype(np.float16): "FLOAT",
    np.dtype(np.float32): "FLOAT",
    np.dtype(np.float64): "FLOAT",
    np.dtype(np.int16): "PCM_16",
    np.dtype(np.int32): "PCM_32",
}

Wave: TypeAlias = npt.NDArray[np.float32]
Encoded: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Source: TypeAlias = Encoded | tuple[Any, int]  # an array and its rate in Hz
Reason = Literal[
    "unreadable",
    "empty",
    "undecodable",
    "no_sound",
    "sample_rate",
    "shape",
    "not_finite",
    "out_of_range",
    "too_short",
    "too_long",
    "silent",
    "clipped",
    "too_little_speech",
]


class RecordingError(DataError):
    """A recording that is refused.

    Attributes:
        name: the recording's name.
        reason: the kind of fault, one of `Reason`.
        detail: the fault and its remedy in words.
    """

    def __init__(self, name: str, reason: Reason, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RecordingError], tuple[str, Reason, str]]:
        """Keep all arguments on the way between processes."""
        return type(self), (self.name, self.reason, self.detail)


class RecordingLimits(Settings):
    """Limits within which a recording is used."""

    least_seconds: float = Field(default=1.0, gt=0)
    """Shortest recording in s."""
    least_speech_seconds: float = Field(default=1.0, ge=0)
    """Least speech in s, where speech is measured."""
    max_seconds: float | None = Field(default=60.0, gt=0, le=LONGEST_SECONDS)
    """Seconds from the start that are decoded and used; null: the whole recording, of up to 2 hours."""
    remarked_clipped_fraction: float = Field(default=0.001, ge=0, le=1)
    """Share of samples at full scale above which the recording bears a remark."""
    refused_clipped_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of samples at full scale above which the recording is refused."""
    silence_dbfs: float = Field(default=-60.0, le=0)
    """Peak level in dBFS up to which a recording is silent."""

    @model_validator(mode="after")
    def _possible(self) -> RecordingLimits:
        if self.max_seconds is not None and self.max_seconds < max(
            self.least_seconds, self.least_speech_seconds
        ):
            raise ValueError(
                f"max_seconds {self.max_seconds:g} is below least_seconds {self.least_seconds:g} or "
                f"least_speech_seconds {self.least_speech_seconds:g}: every recording would be refused"
            )
        return self


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording that can be used, and the facts about it.

    Attributes:
        name: the recording's name: its path, unless another was given.
        waveform: 16 kHz mono samples in [-1, 1), shape (samples,).
        seconds: length of the waveform.
        whole_seconds: length of the whole recording; None where it was not read to the end and its file does
            not tell.
        speech_seconds: speech in the waveform; None where silero-vad is not installed.
        clipped_fraction: share of the decoded samples, of all channels, at full scale.
        peak_dbfs: largest decoded sample of all channels in dB relative to full scale.
        remarks: sentences on what may lower the quality.
    """

    name: str
    waveform: Wave
    seconds: float
    whole_seconds: float | None
    speech_seconds: float | None
    clipped_fraction: float
    peak_dbfs: float
    remarks: tuple[str, ...]


def read_recording(
    source: Source, limits: RecordingLimits | None = None, name: str | None = None
) -> Recording:
    """Read a recording of any rate and number of channels as 16 kHz mono, as preparation converts it.

    Nothing but the given bytes is opened: playlists, and files that refer to others, are refused or read
    without them. Decoding stops at `limits.max_seconds`.

    Args:
        source: path, bytes or binary file of one of `FORMATS`; or an array and its rate in Hz. The array has
            the shape (samples,), (channels, samples) or (samples, channels), the shorter axis being the
            channels, and holds floats in [-1, 1], int16 or int32.
        limits: limits; None for the defaults.
        name: the recording's name in messages; None for its path.

    Raises:
        RecordingError: the recording is refused; `reason` says why in a word.
    """
    limits = limits or RecordingLimits()
    whole_seconds = None
    if isinstance(source, tuple):
        name = name or "array"
        array, rate = _checked_array(source, name)
        whole_seconds = len(array) / rate
        source = _as_wav(array, rate, limits.max_seconds)
    with _opened(source, name) as (file, name):
        decoded = _decode(file, name, limits.max_seconds)
    return _judged(decoded, whole_seconds, limits, name)


def read_waveform(
    waveform: npt.NDArray[np.floating[Any]], limits: RecordingLimits | None = None, name: str = "waveform"
) -> Recording:
    """Recording of a waveform that is 16 kHz mono already: judged as a file, its samples left as they are.

    Args:
        waveform: floats in [-1, 1] of shape (samples,).
        limits: limits; None for the defaults.
        name: the recording's name in messages.

    Raises:
        RecordingError: the recording is refused; `reason` says why in a word.
    """
    limits = limits or RecordingLimits()
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise RecordingError(
            name,
            "shape",
            f"a waveform of {waveform.dtype} and shape {waveform.shape}: give floats in [-1, 1] (samples,) "
            "at 16 kHz, or (array, rate)",
        )
    max_samples = _max_samples(limits.max_seconds)
    used = waveform[:max_samples].astype(np.float32)
    _refuse_unusable(SAMPLE_RATE, used, name)
    decoded = _Decoded(used, is_cut=len(waveform) > max_samples)
    decoded.see(used, len(used) / SAMPLE_RATE)
    return _judged(decoded, len(waveform) / SAMPLE_RATE, limits, name)


def _max_samples(max_seconds: float | None) -> int:
    """Samples at 16 kHz that are used at most."""
    return round((max_seconds or LONGEST_SECONDS) * SAMPLE_RATE)


@dataclass
class _Decoded:
    """Sound of a file, and what was seen of it in the samples of the file itself."""

    waveform: Wave
    seconds: float = 0.0  # decoded, of any rate
    header_seconds: float | None = None
    is_cut: bool = False
    fault: str = ""
    num_values: int = 0
    num_clipped: int = 0
    peak: float = 0.0

    def see(self, values: npt.NDArray[Any], seconds: float) -> None:
        """Measure a block of any number of channels."""
        levels = np.abs(_scaled(values))
        self.seconds += seconds
        self.num_values += levels.size
        self.num_clipped += int(np.count_nonzero(levels >= FULL_SCALE))
        self.peak = max(self.peak, float(levels.max(initial=0)))


def _scaled(values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Samples of any format in units of full scale."""
    if values.dtype.kind == "f":
        return values
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return values.astype(np.float32) / -float(np.iinfo(values.dtype).min)


class _Input:
    """Bytes for libav, without the name of a file, by which it would choose a format."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.is_empty = True
        if file.seekable():
            self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        read = self._file.read(size)
        self.is_empty = self.is_empty and not read
        return read


@contextmanager
def _opened(source: Encoded, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """Source as a binary file, and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source), name or "recording"
    elif isinstance(source, str | os.PathLike):
        name = name or str(source)
        path = Path(source).expanduser()
        if not path.is_file():  # a device or a pipe might never end
            fault = "is not a file" if path.exists() else "no such file"
            raise RecordingError(name, "unreadable", f"{fault}: check the path")
        try:
            file = path.open("rb")
        except OSError as error:
            raise RecordingError(
                name, "unreadable", f"cannot be read: {error.strerror}: change its permissions"
            ) from error
        with file:
            yield file, name
    elif hasattr(source, "read"):
        name = name or str(getattr(source, "name", "recording"))
        if not isinstance(source.read(0), bytes):
            raise RecordingError(name, "unreadable", "opened as text: open it in binary mode, 'rb'")
        yield source, name
    else:
        raise TypeError(f"a {type(source).__name__}: give a path, bytes, a binary file or (array, rate)")


def _decode(file: BinaryIO, name: str, max_seconds: float | None) -> _Decoded:
    """Decode a file until there are `max_seconds`, its end or a fault.

    Raises:
        RecordingError: nothing can be decoded, or what was decoded is of no use.
    """
    import av

    max_samples = _max_samples(max_seconds)
    converter = BlockConverter()
    parts: list[npt.NDArray[np.int16]] = []
    decoded = _Decoded(np.zeros(0, np.float32))
    source = _Input(file)
    try:
        with av.open(source, "r", container_options=_SAFE) as container:
            if not container.streams.audio:
                raise RecordingError(name, "no_sound", "holds no sound: send a recording with a sound track")
            if container.duration:
                decoded.header_seconds = container.duration / av.time_base
            is_estimated = container.format.name in _ESTIMATED_LENGTHS
            try:
                for block in decoded_blocks(container):
                    values = samples_of(block)
                    _refuse_unusable(block.sample_rate, values, name)
                    decoded.see(values, block.samples / block.sample_rate)
                    parts += converter.convert(block, values)
                    if sum(map(len, parts)) > max_samples:
                        break
                else:
                    parts += converter.rest()
            except av.FFmpegError:
                if not decoded.num_values:
                    raise
                decoded.fault = f"damaged after {decoded.seconds:.1f} s"
                parts += converter.rest()
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, RecordingError):
            raise
        if source.is_empty:
            raise RecordingError(name, "empty", "the file is empty: record or send it again") from error
        text = getattr(error, "strerror", None) or str(error)
        raise RecordingError(
            name, "undecodable", f"cannot be decoded ({text}): send it as one of {FORMATS}"
        ) from error
    samples = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    decoded.is_cut = len(samples) > max_samples
    decoded.waveform = samples[:max_samples] * SCALE
    promised = decoded.header_seconds or 0
    if not (decoded.is_cut or decoded.fault or is_estimated) and decoded.seconds < _WHOLE_SHARE * promised:
        decoded.fault = f"ends after {decoded.seconds:.1f} s of {promised:.1f} s"
    return decoded


def _refuse_unusable(rate: int, values: npt.NDArray[Any], name: str) -> None:
    """Refuse a block that would make nonsense of the recording."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RecordingError(
            name,
            "sample_rate",
            f"a rate of {rate} Hz is not within {LOWEST_RATE} to {HIGHEST_RATE} Hz: give the right one",
        )
    if values.dtype.kind != "f":
        return
    if not np.isfinite(values).all():
        raise RecordingError(
            name, "not_finite", "holds samples that are not finite (NaN or inf): correct what made them"
        )
    if (peak := float(np.abs(values).max(initial=0))) > LARGEST_SAMPLE:
        raise RecordingError(
            name,
            "out_of_range",
            f"samples reach {peak:.0f} where 1 is full scale: divide by 32768, if they were 16-bit",
        )


def _checked_array(source: tuple[Any, int], name: str) -> tuple[npt.NDArray[Any], int]:
    """Array of shape (samples, channels) that a WAV file can hold, and its rate.

    Raises:
        RecordingError: the array is of another type or shape, or the rate is no rate.
    """
    array, rate = np.asarray(source[0]), source[1]
    if isinstance(rate, bool) or int(rate) != rate or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RecordingError(
            name,
            "sample_rate",
            f"a rate of {rate} Hz is not a whole number within {LOWEST_RATE} to {HIGHEST_RATE}: "
            "give (array, rate)",
        )
    if array.ndim == 1:
        array = array[:, None]
    elif array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.ndim != 2 or array.shape[1] > MAX_CHANNELS or array.dtype not in _ARRAY_SUBTYPES:
        raise RecordingError(
            name,
            "shape",
            f"an array of {array.dtype} of shape {np.shape(source[0])}: give floats in [-1, 1], int16 or "
            f"int32 of shape (samples,), (channels, samples) or (samples, channels), up to {MAX_CHANNELS} "
            "channels",
        )
    return array, int(rate)


def _as_wav(array: npt.NDArray[Any], rate: int, max_seconds: float | None) -> bytes:
    """WAV file of what will be used of an array (samples, channels), and a second more for the filter."""
    import soundfile

    if max_seconds is not None:
        array = array[: math.ceil((max_seconds + 1) * rate)]
    stream = io.BytesIO()
    with np.errstate(over="ignore"):
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
    soundfile.write(stream, array, rate, format="WAV", subtype=_ARRAY_SUBTYPES[array.dtype])
    return stream.getvalue()


def _judged(decoded: _Decoded, whole_seconds: float | None, limits: RecordingLimits, name: str) -> Recording:
    """Recording within the limits.

    Raises:
        RecordingError: too long, too short, silent, clipped, or with too little speech.
    """
    waveform = decoded.waveform
    seconds = len(waveform) / SAMPLE_RATE
    clipped_fraction = decoded.num_clipped / max(decoded.num_values, 1)
    peak_dbfs = 20 * math.log10(decoded.peak) if decoded.peak else -math.inf
    if decoded.is_cut and limits.max_seconds is None:
        raise RecordingError(
            name,
            "too_long",
            f"longer than {LONGEST_SECONDS / 3600:g} h: cut it, or set max_seconds",
        )
    if seconds < limits.least_seconds:
        raise RecordingError(
            name,
            "too_short",
            f"{seconds:.2f} s long, shorter than least_seconds {limits.least_seconds:g}: record more",
        )
    if np.abs(waveform).max() <= 10 ** (limits.silence_dbfs / 20):
        is_cancelled = peak_dbfs > limits.silence_dbfs
        raise RecordingError(
            name,
            "silent",
            "silent, as its channels cancel each other: send one channel"
            if is_cancelled
            else f"silent, with a peak of {peak_dbfs:.0f} dBFS: check that the microphone is on",
        )
    clipped = f"clipped: {100 * clipped_fraction:.1f} % of the samples are at full scale"
    if clipped_fraction > limits.refused_clipped_fraction:
        raise RecordingError(name, "clipped", f"{clipped}: record at a lower level")
    speech = speech_seconds(waveform)
    if speech is not None and speech < limits.least_speech_seconds:
        raise RecordingError(
            name,
            "too_little_speech",
            f"{speech:.2f} s of speech in {seconds:.2f} s, less than least_speech_seconds "
            f"{limits.least_speech_seconds:g}: record more speech",
        )
    if whole_seconds is None:
        whole_seconds = decoded.header_seconds if decoded.is_cut else seconds
    remarks = []
    if decoded.is_cut:
        length = "" if whole_seconds is None else f" of {whole_seconds:.0f} s"
        remarks.append(f"the first {seconds:g} s{length} are used")
    if decoded.fault:
        remarks.append(f"{decoded.fault}; what comes before is used")
    if clipped_fraction > limits.remarked_clipped_fraction:
        remarks.append(clipped)
    if speech is None:
        remarks.append("speech was not measured: pip install 'speaker-verification[speech]'")
    return Recording(
        name, waveform, seconds, whole_seconds, speech, clipped_fraction, peak_dbfs, tuple(remarks)
    )
