"""Fitting scorings on a cohort, and scoring tables of trials with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SCORES
from speaker_verification.scoring.blocks import ComputeBudget, gather
from speaker_verification.scoring.calibration import Calibration, fit_calibration
from speaker_verification.scoring.calibration_trials import CalibrationTrials
from speaker_verification.scoring.cohort import Cohort, numbers_in_cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.scorings import Fitted, Trials
from speaker_verification.scoring.settings import ScoreSettings


def fit_scorings(
    cohort_set: EmbeddingStore,
    cohort: Cohort,
    drawn: CalibrationTrials,
    settings: ScoreSettings,
    budget: ComputeBudget | None = None,
    calibration_set: EmbeddingStore | None = None,
) -> tuple[Calibration, dict[str, Fitted]]:
    """Fit every scoring that the settings name, and its calibration.

    Args:
        cohort_set: embeddings of the cohort's utterances.
        cohort: cohort made of that set.
        drawn: calibration trials between rows of the calibration set.
        settings: parameters of the scorings.
        budget: memory, threads and device of the computation.
        calibration_set: embeddings of its utterances; None: the cohort set.

    Returns:
        calibration: maps to log-likelihood ratios, thresholds and errors of all scorings.
        fitted: by scoring, the arrays that it learned.

    Raises:
        ParameterError: `top_n` embeddings are not left in a trial's cohort.
        DataError: the cohort set does not suffice.
    """
    trials = trials_between_drawn(cohort_set, cohort, drawn, settings, budget, calibration_set)
    scores: dict[str, np.ndarray] = {}
    fitted: dict[str, Fitted] = {}
    for name, scoring in settings.chosen.items():
        fitted[name] = scoring().fit(cohort_set, trials, drawn.labels)
        scores[name] = trials.scores[name] = scoring().score(trials, fitted[name])
    return fit_calibration(scores, drawn.labels, cohort.centre, settings), fitted


def trials_between_drawn(
    cohort_set: EmbeddingStore,
    cohort: Cohort,
    drawn: CalibrationTrials,
    settings: ScoreSettings,
    budget: ComputeBudget | None = None,
    calibration_set: EmbeddingStore | None = None,
) -> Trials:
    """Calibration trials over their own utterances; a trial's speakers are left out of its cohort.

    Args:
        cohort_set, cohort, drawn, settings, budget, calibration_set: see `fit_scorings`.
    """
    drawn_from = cohort_set if calibration_set is None else calibration_set
    rows, sides = np.unique(np.concatenate([drawn.enroll_rows, drawn.test_rows]), return_inverse=True)
    store = EmbeddingStore(gather(drawn_from.embeddings, rows), drawn_from.utterances.iloc[rows])
    speaker_of_row = numbers_in_cohort(cohort_set.utterances["speaker_id"], store.utterances["speaker_id"])
    excluded = speaker_of_row[sides].reshape(2, -1).T  # (trials, 2)
    enroll, test = np.split(sides, 2)
    return Trials(store, enroll, test, cohort, settings, budget or ComputeBudget(), excluded)


def score_trials(
    trials: pd.DataFrame,
    store: EmbeddingStore,
    cohort: Cohort,
    calibration: Calibration,
    fitted: Mapping[str, Fitted],
    settings: ScoreSettings,
    budget: ComputeBudget | None = None,
) -> pd.DataFrame:
    """Table of the SCORES schema: the trials, a column of each scoring, and the chosen log-likelihood ratios.

    Args:
        trials: table of the TRIALS schema.
        store: embeddings of the trials' utterances.
        cohort: cohort that embeddings are centred on and scores are normalised against.
        calibration: calibration that `fit_scorings` returned.
        fitted: arrays that `fit_scorings` returned.
        settings: parameters of the scorings.
        budget: memory, threads and device of the computation.

    Raises:
        DataError: an utterance has no embedding, or a scoring was not fitted.
    """
    rows = store.rows_of(trials["enroll_id"]), store.rows_of(trials["test_id"])
    scored = Trials(store, *rows, cohort, settings, budget or ComputeBudget())
    return SCORES.conform(trials.assign(**score_rows(scored, calibration, fitted, settings)))


def score_rows(
    trials: Trials, calibration: Calibration, fitted: Mapping[str, Fitted], settings: ScoreSettings
) -> dict[str, np.ndarray]:
    """Scores (trials,) of every scoring by its name, and the chosen log-likelihood ratios as `llr`.

    Args:
        trials: trials between rows of an embedding store.
        calibration: calibration that `fit_scorings` returned.
        fitted: arrays that `fit_scorings` returned.
        settings: parameters of the scorings.

    Raises:
        DataError: a scoring was not fitted.
    """
    missing = [name for name in settings.chosen if name not in calibration.scorings or name not in fitted]
    if missing:
        raise DataError(f"{', '.join(missing)} was not fitted with the others: run the score pipeline anew")
    for name, scoring in settings.chosen.items():
        trials.scores[name] = scoring().score(trials, fitted[name])
    columns = {name: trials.scores[name] for name in settings.chosen}
    return columns | {"llr": calibration.log_likelihood_ratio(settings.llr, columns[settings.llr])}
