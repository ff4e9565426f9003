"""Adaptive symmetric score normalisation (AS-norm) with the top-n cohort scores.

Source: P. Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition",
Interspeech 2017 (adaptive S-norm with the top scores of each side).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.common.settings_base import number_of
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.cohort import (
    Statistics,
    check_top_n,
    cohort_statistics,
    statistics_without_speakers,
)
from speaker_verification.scoring.scorings.base import Fitted, Scoring, SharedSettings, Trials
from speaker_verification.scoring.scorings.cosine import Cosine, cosine_scores

TRIALS_PER_BLOCK = 65_536


class AsNorm(Scoring):
    """Cosine of the whole utterances, normalised by each side's top-n cosines with the cohort."""

    name = "as_norm"

    @classmethod
    def check_cohort(cls, settings: SharedSettings, rows_of_speakers: np.ndarray) -> None:
        is_of_means = settings.cohort == "speaker_means"
        rows = np.ones_like(rows_of_speakers) if is_of_means else rows_of_speakers
        check_top_n(number_of(settings.top_n, rows.sum()), rows, num_excluded=2)

    def score(self, trials: Trials, fitted: Fitted) -> np.ndarray:
        embeddings, cohort, settings = trials.store.embeddings, trials.cohort, trials.settings
        top_n = number_of(settings.top_n, len(cohort.embeddings))
        rows = trials.enroll_rows, trials.test_rows
        if trials.store.crops is None:
            cosine = trials.scores_by(Cosine)
        else:
            cosine = cosine_scores(embeddings, cohort.centre, *rows, trials.budget)
        if trials.excluded is None:
            kept = trials.cohort_directions
            statistics = cohort_statistics(
                embeddings,
                cohort.embeddings if kept is None else kept(),
                top_n,
                centre=cohort.centre,
                deviation=settings.deviation,
                budget=trials.budget,
                cohort_is_normalised=kept is not None,
            )
            return as_norm_of_trials(cosine, statistics, *rows, trials.budget)
        statistics = statistics_without_speakers(
            embeddings,
            cohort,
            top_n,
            np.concatenate(rows),
            np.concatenate([trials.excluded, trials.excluded]),
            deviation=settings.deviation,
            budget=trials.budget,
        )
        enroll, test = np.arange(2 * len(trials)).reshape(2, -1)
        return as_norm_of_trials(cosine, statistics, enroll, test, trials.budget)


def as_norm(cosine: npt.ArrayLike, enroll_stats: Statistics, test_stats: Statistics) -> np.ndarray:
    """Normalised scores ((s - mean_e) / std_e + (s - mean_t) / std_t) / 2, float64 (trials,).

    Args:
        cosine: (trials,) scores.
        enroll_stats: mean and standard deviation (trials,) of each trial's enrolment side.
        test_stats: mean and standard deviation (trials,) of each trial's test side.
    """
    scores = np.asarray(cosine, dtype=np.float64)
    (enroll_mean, enroll_std), (test_mean, test_std) = enroll_stats, test_stats
    return ((scores - enroll_mean) / enroll_std + (scores - test_mean) / test_std) / 2


def as_norm_of_trials(
    cosine: np.ndarray,
    statistics: Statistics,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
) -> np.ndarray:
    """Normalised scores from the statistics of utterances, float64 (trials,).

    Args:
        cosine: (trials,) scores.
        statistics: mean and standard deviation (N,) of each utterance.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: threads of the computation.
    """
    mean, std = statistics

    def normalise(trials: slice) -> np.ndarray:
        enroll, test = enroll_rows[trials], test_rows[trials]
        return as_norm(cosine[trials], (mean[enroll], std[enroll]), (mean[test], std[test]))

    return budget.score(len(cosine), TRIALS_PER_BLOCK, normalise)
