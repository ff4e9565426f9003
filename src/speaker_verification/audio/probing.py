"""Lengths of encoded recordings, as decoding gives them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from speaker_verification.audio.files import MAX_SAMPLES, AudioInfo, decode_audio, open_encoded, plain_samples
from speaker_verification.audio.format import SAMPLE_RATE

if TYPE_CHECKING:
    import av

_INTEGERS = ("pcm_u", "pcm_s", "pcm_mulaw", "pcm_alaw")
_AAC_FRAME = 1024  # samples
_AAC_CONFIG = bytes.fromhex("140856e500")  # LC, 16 kHz, mono, frames of 1024, no other profile within
_TRIMMED = struct.Struct("<II")  # samples to drop at the start and at the end of what a packet decodes to
_BLOCK_SAMPLES = 1 << 16  # resampled at a time
_LEAST_SAMPLES = 2_000  # at another rate: fewer may be less than the resampler's filter needs


def probe_audio(source: bytes, name: str) -> AudioInfo:
    """Number of 16 kHz samples that `decode_audio` makes of a recording.

    WAV of integers, FLAC and AAC in MP4 are measured by their packets; whatever else there is, and what is
    unusual about these, is decoded.

    Args:
        source: the encoded file.
        name: what messages call the recording.

    Raises:
        AudioError: see `decode_audio`. Damage within a packet goes unnoticed.
    """
    return AudioInfo(_measured(source) or len(decode_audio(source, name)), SAMPLE_RATE, 1)


def _measured(source: bytes) -> int | None:
    """Number of samples at 16 kHz by the packets; None or 0 where decoding has to tell."""
    import av

    if (samples := plain_samples(source)) is not None:
        return len(samples) if len(samples) <= MAX_SAMPLES else None
    if (num_samples := plain_aac_samples(source)) is not None and num_samples <= MAX_SAMPLES:
        return num_samples
    try:
        with open_encoded(source) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            rate, codec, file_format = stream.sample_rate, stream.codec_context.name, container.format.name
            if codec == "aac" and file_format.startswith("mov"):
                num_samples = _aac_samples(container, stream)
            elif (codec.startswith(_INTEGERS), file_format) == (True, "wav"):
                num_samples = sum(packet.duration or 0 for packet in container.demux(stream))
            elif codec == file_format == "flac":
                num_samples = sum(packet.duration or 0 for packet in container.demux(stream))
                if num_samples != stream.duration:  # of a damaged one, the decoder may make up for packets
                    return None
            else:
                return None
    except (av.FFmpegError, ValueError):
        return None
    if num_samples is None or num_samples > MAX_SAMPLES:
        return None
    if rate == SAMPLE_RATE:
        return num_samples
    return _resampled_length(num_samples, rate) if num_samples >= _LEAST_SAMPLES else None


def plain_aac_samples(source: bytes) -> int | None:
    """Samples of 16 kHz AAC in MP4 by its tables; None if these are not as ffmpeg's encoder writes them.

    That is: one track of AAC-LC, frames of 1024 samples but for the last, and an edit list that drops the
    first. Boxes: ISO/IEC 14496-12.
    """
    try:
        root = _boxes(source, 0, len(source), b"ftyp", b"moov", b"mdat")
        movie = _boxes(source, *root[b"moov"], b"mvhd", b"trak")
        track = _boxes(source, *movie[b"trak"], b"edts", b"mdia")
        media = _boxes(source, *track[b"mdia"], b"mdhd", b"minf")
        table = _boxes(source, *_boxes(source, *media[b"minf"], b"stbl")[b"stbl"], b"stsd", b"stts", b"stsz")
        edits = _boxes(source, *track[b"edts"], b"elst")
        (movie_rate,) = struct.unpack_from(">I", source, movie[b"mvhd"][0] + 12)
        (rate,) = struct.unpack_from(">I", source, media[b"mdhd"][0] + 12)
        edit = struct.unpack_from(">IIIII", source, edits[b"elst"][0])  # flags, count, length, start, speed
        times = struct.unpack_from(">II", source, table[b"stts"][0])  # flags, runs of equal frames
        runs = list(struct.iter_unpack(">II", source[table[b"stts"][0] + 8 : table[b"stts"][1]]))
        sizes = np.frombuffer(source[table[b"stsz"][0] : table[b"stsz"][1]], ">u4")  # flags, 0, count, sizes
    except (KeyError, struct.error, ValueError):
        return None
    num_frames = sum(count for count, _ in runs)
    num_bytes = root[b"mdat"][1] - root[b"mdat"][0]
    is_usual = (
        rate == SAMPLE_RATE
        and _AAC_CONFIG in source[slice(*table[b"stsd"])]
        and b"iTunSMPB" not in source[slice(*root[b"moov"])]
        and edit[:2] + edit[3:] == (0, 1, _AAC_FRAME, 1 << 16)
        and times == (0, len(runs))
        and len(runs) in (1, 2)
        and runs[0][1] == _AAC_FRAME
        and (len(runs) == 1 or runs[1][0] == 1)
        and sizes[1:3].tolist() == [0, num_frames]
        and int(sizes[3:].sum()) == num_bytes
    )
    if not is_usual or not movie_rate:
        return None
    edit_end = _AAC_FRAME + (edit[2] - 1) * SAMPLE_RATE // movie_rate  # at least: its length is rounded
    return (num_frames - 1) * _AAC_FRAME if edit_end > (num_frames - 1) * _AAC_FRAME else None


def _boxes(source: bytes, start: int, stop: int, *wanted: bytes) -> dict[bytes, tuple[int, int]]:
    """Start and stop of the contents of MP4 boxes by kind.

    Raises:
        KeyError: a wanted one is missing or there twice, or one does not end where it should.
    """
    found: dict[bytes, tuple[int, int]] = {}
    while start < stop:
        size, kind = struct.unpack_from(">I4s", source, start)
        if size < 8 or start + size > stop or (kind in wanted and kind in found):
            raise KeyError(kind)
        found[kind] = start + 8, start + size
        start += size
    return {kind: found[kind] for kind in wanted}


def _aac_samples(container: av.container.InputContainer, stream: av.audio.stream.AudioStream) -> int | None:
    """Samples that libav leaves of AAC in MP4 after its edit list; None if a frame is not of 1024 samples."""
    num_samples = left_to_skip = 0
    is_checked = False
    for packet in container.demux(stream):
        if not packet.size:
            continue
        trimmed_end = 0
        if packet.has_sidedata("skip_samples"):
            left_to_skip, trimmed_end = _TRIMMED.unpack_from(bytes(packet.get_sidedata("skip_samples")))
        kept = 0 if packet.is_discard else max(0, _AAC_FRAME - left_to_skip)
        left_to_skip = max(0, left_to_skip - _AAC_FRAME)
        if trimmed_end <= kept:
            kept -= trimmed_end
        if not is_checked:  # other profiles make frames of other lengths, which the header may not tell
            decoded = [(frame.samples, frame.sample_rate) for frame in packet.decode()]
            if decoded != ([(kept, stream.sample_rate)] if kept else []):
                return None
            is_checked = bool(decoded)
        num_samples += kept
    return num_samples


def _resampled_length(num_samples: int, rate: int) -> int:
    """Number of samples that the resampler makes, asked of itself: it depends on the length alone."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    silence = np.zeros((1, _BLOCK_SAMPLES), np.int16)
    length = 0
    for start in range(0, num_samples, _BLOCK_SAMPLES):
        block = av.AudioFrame.from_ndarray(silence[:, : num_samples - start], format="s16", layout="mono")
        block.sample_rate = rate
        length += sum(part.samples for part in resampler.resample(block))
    return length + sum(part.samples for part in resampler.resample(None))
