"""Quality measure functions: from a normalised score and the quality of both sides to a calibrated one.

Source: J. Thienpondt, B. Desplanques, K. Demuynck, "The IDLAB VoxSRC-20 Submission: Large Margin Fine-Tuning
and Quality-Aware Score Calibration in DNN Based Speaker Verification", ICASSP 2021; the nine numbers are
those of J. S. Kim et al., Interspeech 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.blocks import ComputeBudget, forget_pages, gather
from speaker_verification.scoring.cosine import cosine_scores
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.normalisation import Cohort, as_norm_of_trials, statistics_without_speakers
from speaker_verification.scoring.settings import ScoreSettings

_ROWS_PER_BLOCK = 1024
_TRIALS_PER_BLOCK = 65_536

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


@dataclass(frozen=True)
class CalibrationTrials:
    """Trials between rows of the cohort set; arrays (trials,)."""

    enroll_rows: np.ndarray
    test_rows: np.ndarray
    labels: np.ndarray  # 1 target, 0 non-target


@dataclass(frozen=True)
class QmfCalibration:
    """Log-likelihood ratio = coefficients x features + intercept."""

    coefficients: tuple[float, ...]
    intercept: float
    feature_names: tuple[str, ...] = FEATURE_NAMES

    def log_likelihood_ratio(self, features: np.ndarray) -> np.ndarray:
        """Natural log of p(features | same speaker) / p(features | different speakers), float64 (trials,)."""
        return features @ np.asarray(self.coefficients) + self.intercept

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QmfCalibration:
        """The calibration of these plain values.

        Raises:
            DataError: it was fitted on other features than this version computes.
        """
        if tuple(values["feature_names"]) != FEATURE_NAMES:
            raise DataError(f"the calibration is for features {values['feature_names']}: fit it anew")
        return cls(tuple(values["coefficients"]), float(values["intercept"]))


def probability(log_likelihood_ratios: np.ndarray) -> np.ndarray:
    """Probability of "same speaker" where both answers are as likely beforehand, float64 (trials,)."""
    from scipy.special import expit

    return expit(log_likelihood_ratios)


def quality_measures(
    embeddings: np.ndarray, duration_seconds: npt.ArrayLike, budget: ComputeBudget | None = None
) -> np.ndarray:
    """Log duration, L1 norm, L2 norm and biased standard deviation of raw embeddings, float64 (N, 4).

    Args:
        embeddings: (N, E), not centred; may be a memory map.
        duration_seconds: (N,).
        budget: what the computation may use.
    """
    quality = np.empty((len(embeddings), 4))
    quality[:, 0] = np.log(np.asarray(duration_seconds, dtype=np.float64))

    def measure(rows: slice) -> None:
        raw = embeddings[rows].astype(np.float64)
        quality[rows, 1] = np.abs(raw).sum(axis=1)
        quality[rows, 2] = np.sqrt(np.einsum("ne,ne->n", raw, raw))
        quality[rows, 3] = raw.std(axis=1)

    (budget or ComputeBudget()).over_blocks(len(quality), _ROWS_PER_BLOCK, measure)
    forget_pages(embeddings)
    return quality


def qmf_features(
    as_norm_scores: npt.ArrayLike, enroll_quality: np.ndarray, test_quality: np.ndarray
) -> np.ndarray:
    """The nine numbers of each trial, in the order of FEATURE_NAMES, float64 (trials, 9).

    Args:
        as_norm_scores: (trials,).
        enroll_quality: (trials, 4), the quality measures of each trial's enrolment side.
        test_quality: (trials, 4), of its test side.
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


def draw_calibration_trials(speaker_ids: pd.Series, num_trials: int, seed: int) -> CalibrationTrials:
    """Draw trials between the utterances of a cohort set, the first half target, the others non-target.

    A target trial takes a speaker evenly among those with two utterances or more, and two different
    utterances of it; a non-target trial takes two different speakers and one utterance of each.

    Args:
        speaker_ids: (N,) speaker of each utterance.
        num_trials: even.
        seed: the same seed draws the same trials.

    Raises:
        DataError: there are fewer than two speakers, or none has two utterances.
    """
    speaker_of_row, speakers = pd.factorize(speaker_ids, sort=True)
    counts = np.bincount(speaker_of_row, minlength=len(speakers))
    repeated = np.flatnonzero(counts >= 2)
    if len(speakers) < 2 or not len(repeated):
        raise DataError(
            f"the cohort set has {len(speakers)} speakers, {len(repeated)} of them with two utterances: "
            "calibration needs two speakers and one with two utterances"
        )
    by_speaker = np.argsort(speaker_of_row, kind="stable")
    firsts = np.cumsum(counts) - counts  # where each speaker's rows begin in by_speaker

    rng = np.random.default_rng([seed, num_trials])
    num_targets = num_trials // 2
    num_nontargets = num_trials - num_targets
    speaker = rng.choice(repeated, num_targets)
    one, other = _two_different(rng, counts[speaker])
    speaker_one, speaker_other = _two_different(rng, np.full(num_nontargets, len(speakers)))
    one_rows = firsts[speaker_one] + rng.integers(counts[speaker_one])
    other_rows = firsts[speaker_other] + rng.integers(counts[speaker_other])
    return CalibrationTrials(
        enroll_rows=by_speaker[np.concatenate([firsts[speaker] + one, one_rows])],
        test_rows=by_speaker[np.concatenate([firsts[speaker] + other, other_rows])],
        labels=np.repeat([1, 0], [num_targets, num_nontargets]),
    )


def _two_different(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two different numbers below each size, all pairs as likely."""
    one = rng.integers(sizes)
    other = rng.integers(sizes - 1)
    return one, other + (other >= one)


def calibration_features(
    store: EmbeddingStore,
    trials: CalibrationTrials,
    cohort: Cohort,
    settings: ScoreSettings,
    budget: ComputeBudget | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine (trials,) and the nine numbers (trials, 9) of each calibration trial, float64.

    The speakers of a trial are left out of its cohort.

    Args:
        store: the cohort set, from which both the trials and the cohort come.
        trials: between its rows.
        cohort: of that set.
        settings: of the normalisation.
        budget: what the computation may use.

    Raises:
        ParameterError: fewer than `top_n` embeddings are left in a trial's cohort.
    """
    budget = budget or ComputeBudget()
    both_sides = np.concatenate([trials.enroll_rows, trials.test_rows])
    drawn, sides = np.unique(both_sides, return_inverse=True)
    embeddings = gather(store.embeddings, drawn)
    speaker_of_row, _ = pd.factorize(store.utterances["speaker_id"], sort=True)
    speakers = np.stack([speaker_of_row[trials.enroll_rows], speaker_of_row[trials.test_rows]], axis=1)
    statistics = statistics_without_speakers(
        embeddings,
        cohort,
        settings.top_n,
        sides,
        np.concatenate([speakers, speakers]),
        deviation=settings.deviation,
        budget=budget,
    )
    enroll, test = np.split(sides, 2)
    cosine = cosine_scores(embeddings, cohort.centre, enroll, test, budget)
    enroll_side, test_side = np.arange(len(sides)).reshape(2, -1)
    scores = as_norm_of_trials(cosine, statistics, enroll_side, test_side, budget)
    durations = store.utterances["duration_seconds"].to_numpy()[drawn]
    quality = quality_measures(embeddings, durations, budget)
    return cosine, qmf_features(scores, quality[enroll], quality[test])


def calibrated_ratios(
    calibration: QmfCalibration,
    as_norm_scores: np.ndarray,
    quality: np.ndarray,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
) -> np.ndarray:
    """Log-likelihood ratio of each trial, float64 (trials,), without the features of all of them at once.

    Args:
        calibration: what was fitted.
        as_norm_scores: (trials,).
        quality: (N, 4), the quality measures of utterances.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: what the computation may use.
    """

    def ratios(trials: slice) -> np.ndarray:
        sides = quality[enroll_rows[trials]], quality[test_rows[trials]]
        return calibration.log_likelihood_ratio(qmf_features(as_norm_scores[trials], *sides))

    return budget.score(len(as_norm_scores), _TRIALS_PER_BLOCK, ratios)


def fit_qmf_calibration(features: np.ndarray, labels: np.ndarray, prior: float = 0.5) -> QmfCalibration:
    """Fit a logistic regression (liblinear, C = 1, features as they are) on trials of which half are targets.

    Args:
        features: (trials, 9).
        labels: (trials,), 1 target, 0 non-target.
        prior: the share of targets that the trials are weighed for.
    """
    from sklearn.linear_model import LogisticRegression

    # A fixed state: without one, scikit-learn would draw from NumPy's global generator.
    weights = {1: 2 * prior, 0: 2 * (1 - prior)}
    model = LogisticRegression(solver="liblinear", C=1.0, class_weight=weights, random_state=0)
    model.fit(features, labels)
    log_odds = float(model.intercept_[0])
    return QmfCalibration(tuple(model.coef_[0].tolist()), log_odds + OperatingPoint(prior).threshold)
