"""Positions of crops and windows, and repetition of waves that are too short."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError

# Of a recording that is embedded in one piece; the longest of VoxCeleb1 has 145 s.
WINDOW_SECONDS = 150.0
LEAST_WINDOW_SECONDS = 1.0

logger = logging.getLogger(__name__)


def draw_crop_start(num_available: int, num_samples: int, rng: np.random.Generator) -> int:
    """Draw the first sample of a crop, uniformly over all positions where the crop fits.

    Args:
        num_available: length of the wave in samples.
        num_samples: length of the crop in samples.
        rng: source of the draw.

    Returns:
        0 to `num_available - num_samples`; 0 when the wave is shorter than the crop.
    """
    return int(rng.integers(max(num_available - num_samples, 0) + 1))


def wrap(wave: npt.NDArray[np.float32], num_samples: int) -> npt.NDArray[np.float32]:
    """Repeat a wave from its beginning until it is long enough, and cut it there.

    Args:
        wave: shape (samples,).
        num_samples: length wanted.

    Returns:
        Shape (num_samples,); the wave itself when it has that length already.

    Raises:
        DataError: the wave is empty.
    """
    if len(wave) == num_samples:
        return wave
    if len(wave) == 0:
        raise DataError(f"an empty wave cannot be wrapped round to {num_samples} samples: leave it out")
    return np.resize(wave, num_samples)


def even_windows(
    num_samples: npt.NDArray[np.int64], window_seconds: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split every recording into the fewest windows of one length, and log how many have several.

    Args:
        num_samples: (N,) samples of the recordings.
        window_seconds: longest window. A longer recording has windows of more than half of that, which
            overlap by a sample or none.

    Returns:
        Of all W windows, recording after recording: the recording's index (W,), and first sample and the
        one behind the last, (W, 2).

    Raises:
        ParameterError: window_seconds is too small or not finite.
    """
    if not LEAST_WINDOW_SECONDS <= window_seconds < np.inf:
        raise ParameterError(
            f"window_seconds is {window_seconds}: it must be finite and at least {LEAST_WINDOW_SECONDS:g}"
        )
    counts = np.maximum(-(-num_samples // round(window_seconds * SAMPLE_RATE)), 1)  # (N,)
    if (counts > 1).any():
        logger.info(
            "%d of %d recordings are longer than window_seconds, %g: each gets the mean of the embeddings of "
            "equal windows, %d at most",
            (counts > 1).sum(), len(counts), window_seconds, counts.max(),
        )  # fmt: skip
    owners = np.arange(len(counts)).repeat(counts)  # (W,)
    lengths = -(-num_samples // counts)[owners]
    places = np.arange(len(owners)) - (counts.cumsum() - counts)[owners]
    starts = places * (num_samples[owners] - lengths) // np.maximum(counts[owners] - 1, 1)
    return owners, np.stack([starts, starts + lengths], axis=1)
