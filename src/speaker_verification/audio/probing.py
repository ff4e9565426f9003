"""Lengths of encoded recordings, as decoding gives them."""

from __future__ import annotations

from speaker_verification.audio.files import AudioInfo, decode_audio
from speaker_verification.audio.format import SAMPLE_RATE


def probe_audio(source: bytes, name: str) -> AudioInfo:
    """Number of 16 kHz samples that `decode_audio` makes of a recording.

    Args:
        source: the encoded file.
        name: what messages call the recording.

    Raises:
        AudioError: see `decode_audio`.
    """
    return AudioInfo(len(decode_audio(source, name)), SAMPLE_RATE, 1)
