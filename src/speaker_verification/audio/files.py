"""Audio files: decoding into the project's format, atomic writes, reading of segments."""

from __future__ import annotations

import io
import os
import struct
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE, AudioFormat
from speaker_verification.audio.places import Place
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError

if TYPE_CHECKING:
    import av
    import soundfile

_CHECKED_SAMPLES = 1 << 20  # read at a time
_BLOCK_SAMPLES = 1 << 13  # decoded at a time: what is computed on them fits the processor's cache
SCALE = np.float32(2**-15)  # of a 16-bit sample
MAX_SAMPLES = 2 * 3600 * SAMPLE_RATE  # of a recording: a few bytes of a hostile one may decode to any length

_CHUNK = struct.Struct("<4sI")  # of a WAV file: name and size
_PLAIN_CHUNKS = (b"fmt ", b"data", b"LIST", b"fact", b"JUNK", b"bext")
_PCM16 = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)  # format of a prepared WAV file

_Form: TypeAlias = tuple[int, str, str]  # rate in Hz, layout and sample format of decoded sound


class AudioError(DataError):
    """A recording that cannot be used; `reason` says why without naming it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        """Keep both arguments on the way between processes."""
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class AudioInfo:
    """Length and shape of an audio file; the length is in samples per channel, the rate in Hz."""

    num_samples: int
    sample_rate: int
    num_channels: int


def decode_audio(source: bytes, name: str, least_samples: int | None = None) -> npt.NDArray[np.int16]:
    """Decode a recording and make it 16 kHz, mono, 16-bit.

    Channels are averaged, other rates resampled and other numbers rounded as libav does it. A recording that
    is in this format already comes through bit for bit; of one whose rate or channels change inside it, each
    stretch is converted on its own.

    Args:
        source: the encoded file (AAC in m4a, WAV, FLAC: whatever libav reads).
        name: what messages call the recording.
        least_samples: decoding ends soon after so many samples; None: with the recording.

    Returns:
        Samples, shape (samples,), never empty. Fewer than `least_samples` only if the recording has no more.

    Raises:
        AudioError: the bytes are empty or are not audio, or hold no samples, too many, or some that are not
            finite.
    """
    import av

    if not source:
        raise AudioError(name, "empty file")
    if (samples := plain_samples(source)) is not None and len(samples) <= MAX_SAMPLES:
        return samples
    converter = BlockConverter()
    parts: list[npt.NDArray[np.int16]] = []
    num_samples = num_converted = 0
    try:
        with open_encoded(source) as container:
            if not container.streams.audio:
                raise AudioError(name, "not audio: no audio stream")
            for block in decoded_blocks(container):
                values = samples_of(block)
                num_samples += block.samples
                if num_samples > MAX_SAMPLES:
                    raise AudioError(name, f"longer than {MAX_SAMPLES} samples")
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise AudioError(name, "not finite")
                converted = converter.convert(block, values)
                parts += converted
                num_converted += sum(map(len, converted))
                if least_samples is not None and num_converted >= least_samples:
                    break
            else:
                parts += converter.rest()
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        text = getattr(error, "strerror", None) or str(error)
        raise AudioError(name, f"not audio: {text}") from error
    if not parts:
        raise AudioError(name, "no samples")
    return np.concatenate(parts)


def open_encoded(source: bytes) -> av.container.InputContainer:
    """Open an encoded recording with libav.

    Raises:
        FFmpegError: it is none.
    """
    import av

    is_mp4 = source[4:8] == b"ftyp"  # whose demuxer libav would find as well, a twentieth slower
    return av.open(io.BytesIO(source), "r", format="mov" if is_mp4 else None)


def plain_samples(source: bytes) -> npt.NDArray[np.int16] | None:
    """Samples of an undamaged WAV file that is 16 kHz, mono and 16-bit; None for any other file.

    They are those of libav, which takes eighty times as long over them.
    """
    if source[:4] != b"RIFF" or source[8:12] != b"WAVE":
        return None
    found: dict[bytes, memoryview] = {}
    position = 12
    while position + _CHUNK.size <= len(source):
        kind, size = _CHUNK.unpack_from(source, position)
        position += _CHUNK.size
        if kind in found or kind not in _PLAIN_CHUNKS or position + size > len(source):
            return None
        found[kind] = memoryview(source)[position : position + size]
        position += size + size % 2
        if kind == b"data" and found.get(b"fmt ") != _PCM16:
            return None
    data = found.get(b"data", b"")
    return np.frombuffer(data, "<i2") if len(data) and not len(data) % 2 else None


def decoded_blocks(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Decoded sound of a container in blocks of under a second, each of one rate, layout and sample format.

    Raises:
        FFmpegError: from here on it cannot be decoded; the block before comes first.
    """
    import av

    block = av.AudioFifo()
    form: _Form | None = None
    try:
        for frame in container.decode(audio=0):
            form_before, form = form, _form(frame)
            is_full = block.samples >= _BLOCK_SAMPLES or form != form_before
            if is_full and (full := block.read()):
                yield full
            if form != form_before:
                block = av.AudioFifo()
            frame.pts = None  # gaps in time are not filled
            block.write(frame)
    except av.FFmpegError:
        if last := block.read():
            yield last
        raise
    if last := block.read():
        yield last


def samples_of(block: av.AudioFrame) -> npt.NDArray[Any]:
    """Samples of a block in its own format, (channels, samples) or, interleaved, (1, samples x channels)."""
    import av

    if not block.format.is_planar or block.layout.nb_channels < 8:
        return block.to_ndarray()
    # From eight planes on PyAV reads beyond the last, and dies.
    interleaved = av.AudioResampler(format=block.format.packed).resample(block)
    return np.concatenate([part.to_ndarray() for part in interleaved], axis=1)


def _form(frame: av.AudioFrame) -> _Form:
    return frame.sample_rate, frame.layout.name, frame.format.name


class BlockConverter:
    """Conversion of a recording to 16 kHz, mono, 16-bit, block by block.

    The samples do not depend on how the recording is cut into blocks of one form; where its rate, channels or
    sample format change, what follows is converted on its own.
    """

    def __init__(self) -> None:
        self._form: _Form | None = None
        self._resampler: av.AudioResampler | None = None

    def convert(self, block: av.AudioFrame, values: npt.NDArray[Any]) -> list[npt.NDArray[np.int16]]:
        """Samples that are ready, pieces of shape (samples,); the filter holds some back.

        Args:
            block: of `decoded_blocks`.
            values: `samples_of` the block, all finite.
        """
        import av

        parts = []
        if self._form != _form(block):
            parts = self.rest()
            self._form = _form(block)
        is_right = block.layout.nb_channels == 1 and block.sample_rate == SAMPLE_RATE
        if is_right and values.dtype == np.float32:  # what the resampler does, in less time
            scaled = values[0] * np.float32(32768)
            np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled)
            return [*parts, scaled.astype(np.int16)]
        if self._resampler is None:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        return [*parts, *(part.to_ndarray()[0] for part in self._resampler.resample(block))]

    def rest(self) -> list[npt.NDArray[np.int16]]:
        """Samples that the filter held back, once no block of the same form follows."""
        resampler, self._resampler = self._resampler, None
        return [part.to_ndarray()[0] for part in resampler.resample(None)] if resampler else []


def encode_audio(samples: npt.NDArray[np.int16], audio_format: AudioFormat) -> bytes:
    """Bytes of a 16 kHz mono 16-bit file, for samples (samples,) int16."""
    stream = io.BytesIO()
    if audio_format == "wav":
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(samples.astype("<i2", copy=False).tobytes())
    else:
        import soundfile

        soundfile.write(stream, samples, SAMPLE_RATE, format=audio_format, subtype="PCM_16")
    return stream.getvalue()


def write_audio(path: Path, samples: npt.NDArray[np.int16]) -> None:
    """Write a 16 kHz mono 16-bit file atomically; missing folders are created.

    Args:
        path: the file to write or replace; its extension, .wav or .flac, is its format.
        samples: shape (samples,), int16.

    Raises:
        OSError: the disk is full, among others.
    """
    encoded = encode_audio(samples, "flac" if path.suffix == ".flac" else "wav")
    with atomic_write(path) as part:
        part.write_bytes(encoded)  # in one go: libsndfile, writing itself, passes over a full disk


def audio_info(source: str | Path | bytes) -> AudioInfo:
    """Read the header of an audio file.

    Args:
        source: the file, or its bytes.

    Raises:
        AudioError: the file is missing or is not audio.
    """
    with _open(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def check_audio(source: bytes) -> AudioInfo:
    """Decode a whole 16 kHz file, to prove that each of its channels can be mixed or convolved with.

    Args:
        source: bytes of a file that libsndfile reads.

    Raises:
        AudioError: not audio, of another rate, without samples or with fewer than its header says, not
            finite, or a channel is silent.
    """
    import soundfile

    with _open(source) as file:
        info = AudioInfo(file.frames, file.samplerate, file.channels)
        if info.sample_rate != SAMPLE_RATE:
            raise AudioError("audio", f"{info.sample_rate} Hz instead of {SAMPLE_RATE}")
        if not info.num_samples:
            raise AudioError("audio", "no samples")
        energies = np.zeros(info.num_channels)
        num_samples = 0
        try:
            while len(block := file.read(_CHECKED_SAMPLES, dtype="float32", always_2d=True)):
                energies += energy(block)
                num_samples += len(block)
        except soundfile.LibsndfileError as error:
            raise AudioError("audio", f"not audio: {error.error_string}") from error
    if num_samples != info.num_samples:
        raise AudioError("audio", f"ends after sample {num_samples}, before its header says")
    if not np.isfinite(energies).all():
        raise AudioError("audio", "not finite")
    silent = np.flatnonzero(energies == 0)
    if len(silent) == info.num_channels:
        raise AudioError("audio", "silent")
    if len(silent):
        raise AudioError("audio", f"channel {silent[0]} of 0 to {info.num_channels - 1} is silent")
    return info


def energy(wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Sum of squares over the samples of a wave (samples,), or of each channel of (samples, channels)."""
    with np.errstate(over="ignore"):
        return np.sum(np.square(wave), axis=0, dtype=np.float64)


def read_audio(source: str | Path | bytes | BinaryIO) -> npt.NDArray[np.float32]:
    """Read a recording of any format, rate and number of channels as 16 kHz mono.

    The samples are those that preparation would write and training would read of it, to the last bit.

    Args:
        source: path of the file, its bytes, or a file that is open for reading them.

    Returns:
        Samples in [-1, 1), shape (samples,), never empty.

    Raises:
        AudioError: there is no such file, it cannot be read, or see `decode_audio`.
    """
    if isinstance(source, bytes):
        name, encoded = "audio", source
    elif isinstance(source, (str, os.PathLike)):
        name, encoded = str(source), _read_bytes(source)
    else:
        name, encoded = str(getattr(source, "name", "audio")), source.read()
    if not isinstance(encoded, bytes):
        raise AudioError(name, "opened as text: open it in binary mode, 'rb'")
    return decode_audio(encoded, name) * SCALE


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except FileNotFoundError as error:
        raise AudioError(str(path), "no such file") from error
    except OSError as error:
        raise AudioError(str(path), f"cannot be read: {error.strerror}") from error


def read_segment(
    source: str | Path | Place, start: int = 0, num_samples: int | None = None, channel: int | None = None
) -> npt.NDArray[np.float32]:
    """Read a segment of one channel of a 16 kHz file.

    Args:
        source: file that libsndfile reads, of which only the segment is read; or its place in an archive.
        start: first sample of the segment.
        num_samples: length of the segment; None reads to the end.
        channel: which channel, from 0; may be left out for a mono file only.

    Returns:
        Samples in [-1, 1), shape (num_samples,).

    Raises:
        AudioError: the file is missing, is not audio, is not 16 kHz, has several channels and none was
            chosen, or does not hold the channel or the whole segment.
    """
    name = str(source)
    with _open(source.read() if isinstance(source, Place) else source, name) as file:
        stop = file.frames if num_samples is None else start + num_samples
        if file.samplerate != SAMPLE_RATE:
            raise AudioError(name, f"{file.samplerate} Hz instead of {SAMPLE_RATE}")
        if channel is None and file.channels != 1:
            raise AudioError(name, f"{file.channels} channels and none was chosen")
        if channel is not None and not 0 <= channel < file.channels:
            raise AudioError(name, f"no channel {channel} among {file.channels}")
        if not 0 <= start <= stop <= file.frames:
            raise AudioError(name, f"no samples {start} to {stop} in a file of {file.frames}")
        file.seek(start)
        # NumPy scales 16-bit samples faster than libsndfile, and to the same values.
        is_16_bit = file.subtype == "PCM_16"
        samples = file.read(stop - start, dtype="int16" if is_16_bit else "float32", always_2d=True)
    if len(samples) != stop - start:
        raise AudioError(name, f"ends after sample {start + len(samples)}, before its header says")
    wave = samples[:, channel or 0]  # (num_samples, channels) -> (num_samples,)
    return wave * SCALE if is_16_bit else np.ascontiguousarray(wave)


@contextmanager
def _open(source: str | Path | bytes, name: str = "audio") -> Iterator[soundfile.SoundFile]:
    import soundfile

    name = name if isinstance(source, bytes) else str(source)
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        is_there = isinstance(source, bytes) or os.path.isfile(source)
        raise AudioError(name, f"not audio: {error.error_string}" if is_there else "no such file") from error
    with file:
        yield file
