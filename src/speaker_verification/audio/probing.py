"""Lengths of encoded recordings, as decoding gives them."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from speaker_verification.audio.files import MAX_SAMPLES, AudioInfo, decode_audio, plain_samples
from speaker_verification.audio.format import SAMPLE_RATE

if TYPE_CHECKING:
    import av

_INTEGERS = ("pcm_u", "pcm_s", "pcm_mulaw", "pcm_alaw")
_AAC_FRAME = 1024  # samples
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
    try:
        with av.open(io.BytesIO(source), "r") as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            rate, codec, file_format = stream.sample_rate, stream.codec_context.name, container.format.name
            if codec == "aac" and "mp4" in file_format:
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
