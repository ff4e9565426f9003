"""Where a crop starts and what fills it when the wave is too short."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.errors import DataError


def draw_crop_start(num_available: int, num_samples: int, rng: np.random.Generator) -> int:
    """Draw the first sample of a crop, evenly over all places where the crop fits.

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
