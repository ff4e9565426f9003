from __future__ import annotations

import numpy as np
from sklearn.covariance import oas

from speaker_verification.scoring.covariance import power, shrink


def test_shrinkage_is_scikit_learns() -> None:
    samples = np.random.default_rng(0).normal(size=(6, 9)) * np.arange(1, 10)  # fewer samples than dimensions
    expected, share = oas(samples, assume_centered=True)
    assert 0 < share < 1
    np.testing.assert_allclose(shrink(samples.T @ samples / 6, 6), expected, rtol=1e-12)


def test_powers_of_a_covariance_by_hand() -> None:
    covariance = np.array([[5.0, 4.0], [4.0, 5.0]])  # 9 along (1, 1), 1 along (1, -1)
    np.testing.assert_allclose(power(covariance, 0.5), [[2, 1], [1, 2]], atol=1e-12)
    np.testing.assert_allclose(power(covariance, -0.5), np.array([[2, -1], [-1, 2]]) / 3, atol=1e-12)
