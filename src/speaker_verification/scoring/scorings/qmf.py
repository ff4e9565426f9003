"""Quality measure functions (QMF): AS-norm scores calibrated with the quality of both sides.

Source: J. Thienpondt, B. Desplanques, K. Demuynck, "The IDLAB VoxSRC-20 Submission: Large Margin Fine-Tuning
and Quality-Aware Score Calibration in DNN Based Speaker Verification", ICASSP 2021; the nine features are
those of J. S. Kim et al., Interspeech 2025.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.blocks import ComputeBudget, forget_pages
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.scorings.as_norm import AsNorm
from speaker_verification.scoring.scorings.base import Fitted, Scoring, SharedSettings, Trials

ROWS_PER_BLOCK = 1024
TRIALS_PER_BLOCK = 65_536

FEATURE_NAMES = (
    "as_norm",
    "log_duration_enroll",  # of seconds, natural
    "log_duration_test",
    "l1_norm_enroll",
    "l2_norm_enroll",
    "l1_norm_test",
    "l2_norm_test",
    "std_enroll",  # over the components of the embedding, biased
    "std_test",
)


class Qmf(Scoring):
    """Logistic regression on nine features of a trial; its scores are natural log-likelihood ratios."""

    name = "qmf"
    is_llr = True

    @classmethod
    def check_cohort(cls, settings: SharedSettings, rows_of_speakers: np.ndarray) -> None:
        AsNorm.check_cohort(settings, rows_of_speakers)

    def fit(self, cohort_set: EmbeddingStore, trials: Trials, labels: np.ndarray) -> Fitted:
        quality = _quality_of(trials)
        sides = quality[trials.enroll_rows], quality[trials.test_rows]
        features = qmf_features(trials.scores_by(AsNorm), *sides)
        coefficients, intercept = fit_logistic_regression(features, labels, trials.settings.calibration_prior)
        names = np.array(FEATURE_NAMES)
        return {"coefficients": coefficients, "intercept": np.array(intercept), "feature_names": names}

    def score(self, trials: Trials, fitted: Fitted) -> np.ndarray:
        as_norm, quality = trials.scores_by(AsNorm), _quality_of(trials)

        def ratios(block: slice) -> np.ndarray:
            sides = quality[trials.enroll_rows[block]], quality[trials.test_rows[block]]
            return qmf_ratios(as_norm[block], *sides, fitted)

        return trials.score(TRIALS_PER_BLOCK, ratios)


def _quality_of(trials: Trials) -> np.ndarray:
    """Quality features of the utterances of a store, float64 (N, 4)."""
    seconds = trials.store.utterances["duration_seconds"]
    return quality_features(trials.store.embeddings, seconds, trials.budget)


def quality_features(
    embeddings: np.ndarray, duration_seconds: npt.ArrayLike, budget: ComputeBudget | None = None
) -> np.ndarray:
    """Log duration, L1 norm, L2 norm and biased standard deviation of raw embeddings, float64 (N, 4).

    Args:
        embeddings: (N, E), not centred; may be a memory map.
        duration_seconds: (N,); 0 where they are not known, which counts as a log duration of 0.
        budget: threads of the computation.
    """
    quality = np.empty((len(embeddings), 4))
    seconds = np.asarray(duration_seconds, dtype=np.float64)
    quality[:, 0] = np.log(seconds, where=seconds > 0, out=np.zeros(len(seconds)))

    def measure(rows: slice) -> None:
        raw = embeddings[rows].astype(np.float64)
        quality[rows, 1] = np.abs(raw).sum(axis=1)
        quality[rows, 2] = np.sqrt(np.einsum("ne,ne->n", raw, raw))
        quality[rows, 3] = raw.std(axis=1)

    (budget or ComputeBudget()).over_blocks(len(quality), ROWS_PER_BLOCK, measure)
    forget_pages(embeddings)
    return quality


def qmf_features(
    as_norm_scores: npt.ArrayLike, enroll_quality: np.ndarray, test_quality: np.ndarray
) -> np.ndarray:
    """The nine features of each trial, in the order of FEATURE_NAMES, float64 (trials, 9).

    Args:
        as_norm_scores: (trials,).
        enroll_quality: (trials, 4), quality features of each trial's enrolment side.
        test_quality: (trials, 4), quality features of each trial's test side.
    """
    log_duration_enroll, l1_enroll, l2_enroll, std_enroll = enroll_quality.T
    log_duration_test, l1_test, l2_test, std_test = test_quality.T
    return np.stack(
        [
            np.asarray(as_norm_scores, dtype=np.float64),
            log_duration_enroll,
            log_duration_test,
            l1_enroll,
            l2_enroll,
            l1_test,
            l2_test,
            std_enroll,
            std_test,
        ],
        axis=1,
    )


def qmf_ratios(
    as_norm_scores: npt.ArrayLike, enroll_quality: np.ndarray, test_quality: np.ndarray, fitted: Fitted
) -> np.ndarray:
    """Natural log-likelihood ratios of trials, float64 (trials,).

    Args:
        as_norm_scores: (trials,).
        enroll_quality: as for `qmf_features`, like `test_quality`.
        fitted: coefficients and intercept, with the names of their features.

    Raises:
        DataError: the coefficients are of other features.
    """
    if tuple(fitted["feature_names"]) != FEATURE_NAMES:
        raise DataError(
            f"QMF was fitted on the features {', '.join(fitted['feature_names'])}, not on "
            f"{', '.join(FEATURE_NAMES)}: run the score pipeline anew"
        )
    features = qmf_features(as_norm_scores, enroll_quality, test_quality)
    return features @ fitted["coefficients"] + fitted["intercept"]


def fit_logistic_regression(
    features: np.ndarray, labels: np.ndarray, prior: float = 0.5
) -> tuple[np.ndarray, float]:
    """Coefficients (9,) and intercept that give natural log-likelihood ratios.

    Logistic regression (liblinear, C = 1, features as they are) on trials of which half are targets.

    Args:
        features: (trials, 9).
        labels: (trials,), 1 target, 0 non-target.
        prior: share of targets that the trials are weighted for.
    """
    from sklearn.linear_model import LogisticRegression

    # A fixed state: without one, scikit-learn would draw from NumPy's global generator.
    weights = {1: 2 * prior, 0: 2 * (1 - prior)}
    model = LogisticRegression(solver="liblinear", C=1.0, class_weight=weights, random_state=0)
    model.fit(features, labels)
    return model.coef_[0], float(model.intercept_[0]) + OperatingPoint(prior).threshold
