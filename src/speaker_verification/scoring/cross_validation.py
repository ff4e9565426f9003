"""Cross-validation by speaker: scores of trials between speakers that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SCORES, TRIALS
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.calibration_trials import calibration_trials, distinct_trials
from speaker_verification.scoring.cohort import Cohort, number_speakers
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import fit_scorings, score_trials
from speaker_verification.scoring.scorings import Fitted
from speaker_verification.scoring.settings import ScoreSettings

CROSS_VALIDATION = "cross-validation"  # as a trial list
NUM_FOLDS = 5
LEAST_SPEAKERS = 2 * NUM_FOLDS  # with a target trial, so that each fold has both kinds of trials


class FittedParts(NamedTuple):
    """Everything that scoring learns from a cohort set."""

    cohort: Cohort
    calibration: Calibration
    fitted: Mapping[str, Fitted]


@dataclass(frozen=True, eq=False)
class LeftOutScores:
    """Scores of trials whose speakers were left out of cohort, scorings and calibration.

    Attributes:
        trials: table of the TRIALS schema, the trials of all folds.
        scores: (trials,) by scoring.
        llrs: natural log-likelihood ratios (trials,) by scoring.
    """

    trials: pd.DataFrame
    scores: Mapping[str, np.ndarray]
    llrs: Mapping[str, np.ndarray]


def fit_parts(
    store: EmbeddingStore, settings: ScoreSettings, seed: int, budget: ComputeBudget | None = None
) -> FittedParts:
    """Fit cohort, scorings and calibration on all speakers of a store; crops are not used.

    Args:
        store: embeddings of the cohort set.
        settings: parameters of the scorings.
        seed: seed of the calibration trials.
        budget: memory, threads and device of the computation.

    Raises:
        ParameterError: `top_n` embeddings are not left in a trial's cohort.
        DataError: the cohort set does not suffice.
    """
    cohort_set = replace(store, crops=None)
    cohort = Cohort.of(cohort_set, settings.cohort, settings.centre)
    drawn = calibration_trials(cohort_set.utterances, cohort_set.utterances.iloc[:0], settings, seed)
    return FittedParts(cohort, *fit_scorings(cohort_set, cohort, drawn, settings, budget))


def cross_validate(
    store: EmbeddingStore, settings: ScoreSettings, seed: int, budget: ComputeBudget | None = None
) -> LeftOutScores:
    """Score trials between the speakers of each fold by what was fitted on all other speakers.

    In each fold as many trials are drawn as for a calibration, in the same way; those of the same two
    utterances count once.

    Args:
        store: embeddings of all speakers.
        settings: parameters of the scorings.
        seed: seed of folds and trials.
        budget: memory, threads and device of the computation.

    Raises:
        ParameterError: as `fit_parts`.
        DataError: the speakers do not suffice.
    """
    fold_of_row = draw_folds(store.utterances, seed, settings.calibration_sessions == "across")
    tables: list[pd.DataFrame] = []
    llrs: dict[str, list[np.ndarray]] = {name: [] for name in settings.chosen}
    for fold in range(NUM_FOLDS):
        inside = fold_of_row == fold
        parts = fit_parts(store.at(np.flatnonzero(~inside)), settings, seed, budget)
        left_out = store.at(np.flatnonzero(inside))
        trials = _trials_of(left_out.utterances, settings, seed)
        tables.append(score_trials(trials, left_out, *parts, settings, budget))
        for name, values in parts.calibration.log_likelihood_ratios(tables[-1]).items():
            llrs[name].append(values)
    scored = SCORES.concat(tables)
    return LeftOutScores(
        TRIALS.conform(scored[TRIALS.columns.names]),
        {name: scored[name].to_numpy() for name in settings.chosen},
        {name: np.concatenate(values) for name, values in llrs.items()},
    )


def draw_folds(utterances: pd.DataFrame, seed: int, across_sessions: bool = False) -> np.ndarray:
    """Fold of each utterance (N,): those of a speaker are in one, and speakers with target trials in each.

    Args:
        utterances: N rows with columns speaker_id and, where sessions count, session_id.
        seed: the same seed draws the same folds.
        across_sessions: whether a target trial needs two sessions of a speaker, rather than two utterances.

    Raises:
        DataError: fewer than `LEAST_SPEAKERS` speakers have a target trial.
    """
    numbers, num_speakers = number_speakers(utterances["speaker_id"])
    by_speaker = utterances.groupby(numbers)["session_id" if across_sessions else "utterance_id"]
    repeats = by_speaker.nunique().to_numpy() >= 2
    if repeats.sum() < LEAST_SPEAKERS:
        what, remedy = ("sessions", ", or leave the sessions out") if across_sessions else ("recordings", "")
        raise DataError(
            f"{num_speakers} speakers, {repeats.sum()} of them with two {what} or more: error rates need "
            f"{LEAST_SPEAKERS} such speakers: add recordings{remedy}"
        )
    order = np.random.default_rng(seed).permutation(num_speakers)
    order = order[np.argsort(~repeats[order], kind="stable")]
    fold_of_speaker = np.empty(num_speakers, dtype=int)
    fold_of_speaker[order] = np.arange(num_speakers) % NUM_FOLDS
    return fold_of_speaker[numbers]


def fewest_fitted(speaker_ids: pd.Series) -> int:
    """Number of speakers that are fitted on where the largest fold is left out."""
    num_speakers = speaker_ids.nunique()
    return num_speakers - -(-num_speakers // NUM_FOLDS)


def _trials_of(utterances: pd.DataFrame, settings: ScoreSettings, seed: int) -> pd.DataFrame:
    drawn = distinct_trials(calibration_trials(utterances, utterances.iloc[:0], settings, seed))
    ids = utterances["utterance_id"].to_numpy()
    return TRIALS.conform(
        pd.DataFrame(
            {
                "trial_list": CROSS_VALIDATION,
                "label": drawn.labels,
                "enroll_id": ids[drawn.enroll_rows],
                "test_id": ids[drawn.test_rows],
            }
        )
    )
