"""Affine calibration: from scores to natural log-likelihood ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.metrics import OperatingPoint

_RIDGE = 1e-6  # beside a mean of log losses: keeps the slope finite where the classes do not overlap


@dataclass(frozen=True)
class AffineCalibration:
    """Log-likelihood ratio = slope x score + offset."""

    slope: float
    offset: float

    @classmethod
    def fit(cls, scores: npt.ArrayLike, labels: npt.ArrayLike, prior: float = 0.5) -> AffineCalibration:
        """Fit by logistic regression; each class weighs as the prior says, however many trials it has.

        Source: N. Brümmer, J. du Preez, "Application-Independent Evaluation of Speaker Detection", Computer
        Speech and Language 20, 2006.

        Args:
            scores: (trials,).
            labels: (trials,), 1 target, 0 non-target.
            prior: probability of a target trial at which the log-likelihood ratios are to be best.

        Raises:
            DataError: all scores are equal.
        """
        from sklearn.linear_model import LogisticRegression

        values, is_target = np.asarray(scores, dtype=np.float64), np.asarray(labels) == 1
        mean, std = values.mean(), values.std()
        if not std > 0:
            raise DataError("the scores of the calibration trials are all equal: they cannot be calibrated")
        weights = np.where(is_target, prior / is_target.sum(), (1 - prior) / (~is_target).sum())
        model = LogisticRegression(C=1 / _RIDGE, tol=1e-8, max_iter=1000)
        model.fit(((values - mean) / std)[:, None], is_target, sample_weight=weights)
        slope = float(model.coef_[0, 0] / std)
        log_odds = float(model.intercept_[0] - slope * mean)  # at a score of 0
        return cls(slope, log_odds + OperatingPoint(prior).threshold)

    def log_likelihood_ratio(self, scores: npt.ArrayLike) -> np.ndarray:
        """Natural log of p(score | same speaker) / p(score | different speakers), float64 (trials,)."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset

    def score(self, log_likelihood_ratio: float) -> float:
        """The score that has this log-likelihood ratio."""
        return (log_likelihood_ratio - self.offset) / self.slope
