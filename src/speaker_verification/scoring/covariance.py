"""Covariances of few samples, and their powers."""

from __future__ import annotations

import numpy as np


def shrink(covariance: np.ndarray, num_samples: int) -> np.ndarray:
    """Covariance (E, E) of so many samples, by oracle approximating shrinkage; it can be inverted.

    Source: Y. Chen et al., "Shrinkage Algorithms for MMSE Covariance Estimation", IEEE Trans. Signal
    Processing 58, 2010, equation 23.

    Args:
        covariance: of samples that are not all equal.
        num_samples: number of independent samples that it was estimated from.
    """
    width = len(covariance)
    scale = np.trace(covariance) / width
    mean_square = (covariance**2).mean()
    share = (mean_square + scale**2) / ((num_samples + 1) * (mean_square - scale**2 / width))
    share = min(share, 1.0) if share > 0 else 1.0
    return (1 - share) * covariance + share * scale * np.eye(width)


def power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """Symmetric power (E, E) of a covariance that can be inverted."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * values**exponent) @ vectors.T
