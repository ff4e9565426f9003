"""Speech in a waveform, as silero-vad finds it (MIT; https://github.com/snakers4/silero-vad).

Its wheel carries the model as ONNX, which onnxruntime executes: nothing is downloaded and nothing unpickled.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE


def speech_seconds(wave: npt.NDArray[np.float32]) -> float | None:
    """Seconds of speech, pauses of less than 0.1 s and 30 ms on both sides of each stretch included.

    Args:
        wave: 16 kHz samples in [-1, 1], shape (samples,).

    Returns:
        None where silero-vad or onnxruntime is not installed, which the extra `speech` brings.
    """
    try:
        model = _model()
    except ImportError:
        return None
    from silero_vad import get_speech_timestamps_sequence

    stretches = get_speech_timestamps_sequence(wave, model, sampling_rate=SAMPLE_RATE)
    return float(sum(stretch["end"] - stretch["start"] for stretch in stretches)) / SAMPLE_RATE


@cache
def _model() -> Any:
    """The detector, once per process; it keeps nothing from call to call."""
    import torch

    num_threads = torch.get_num_threads()
    try:
        import silero_vad

        return silero_vad.load_silero_vad(sequence=True)
    finally:
        torch.set_num_threads(num_threads)  # silero_vad sets it to 1 on import
