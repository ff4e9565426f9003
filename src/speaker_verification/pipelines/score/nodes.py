"""Nodes that score trials from embeddings; none of them reads audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.errors import UserError
from speaker_verification.scoring import evaluation
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.calibration_trials import calibration_trials
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.open_set import (
    open_set_rates,
    search_gallery,
    spread_thresholds,
    tabulate_rates,
)
from speaker_verification.scoring.scorings import Fitted
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.sides import SideScorer
from speaker_verification.scoring.summary import Metrics, compute_metrics

logger = logging.getLogger(__name__)


def summarise_cohort(
    cohort_embeddings: EmbeddingStore, embeddings: EmbeddingStore, score: ScoreSettings
) -> Cohort:
    """Make the cohort that embeddings are centred on and scores are normalised against."""
    embeddings.refuse_other_model(cohort_embeddings)
    return Cohort.of(cohort_embeddings, score.cohort, score.centre)


def fit_scorings(
    cohort_embeddings: EmbeddingStore,
    cohort: Cohort,
    validation_utterances: pd.DataFrame,
    score: ScoreSettings,
    seed: int,
    device: str,
) -> tuple[dict[str, Any], dict[str, Fitted]]:
    """Fit every scoring and its calibration on trials drawn from the cohort set."""
    drawn = calibration_trials(cohort_embeddings.utterances, validation_utterances, score, seed)
    calibration, fitted = evaluation.fit_scorings(
        cohort_embeddings, cohort, drawn, score, score.budget(device)
    )
    for point in calibration.operating_points:
        if short := calibration.shortcomings(point):
            logger.warning("operating point %s is %s: see the remarks in the results", point, short)
    return calibration.to_dict(), fitted


def score_trials(
    trials: pd.DataFrame,
    embeddings: EmbeddingStore,
    cohort: Cohort,
    calibration: Mapping[str, Any],
    fitted_scorings: Mapping[str, Fitted],
    score: ScoreSettings,
    device: str,
) -> pd.DataFrame:
    """Score the trials by every scoring."""
    return evaluation.score_trials(
        trials,
        embeddings,
        cohort,
        Calibration.from_dict(calibration),
        fitted_scorings,
        score,
        score.budget(device),
    )


def measure_identification(
    embeddings: EmbeddingStore,
    cohort: Cohort,
    calibration: Mapping[str, Any],
    fitted_scorings: Mapping[str, Fitted],
    score: ScoreSettings,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Search the trials' utterances among half of their speakers, and lay the error rates out by threshold.

    Where the scoring or the speakers do not allow it, the table is empty.
    """
    fitted, budget = Calibration.from_dict(calibration), score.budget(device)
    try:
        scorer = SideScorer(cohort, score, fitted, fitted_scorings, embeddings.crops is not None)
        searches = search_gallery(embeddings, scorer, seed, budget)
    except UserError as error:
        logger.warning("identification is not measured: %s", error)
        return tabulate_rates(None)
    thresholds = [*spread_thresholds(searches), *(point.threshold for point in fitted.operating_points)]
    rates = open_set_rates(
        searches, np.unique(thresholds), num_resamples=score.bootstrap_resamples, seed=seed
    )
    return tabulate_rates(rates)


def measure_error_rates(
    scores: pd.DataFrame,
    calibration: Mapping[str, Any],
    embeddings: EmbeddingStore,
    trial_lists: pd.DataFrame,
    score: ScoreSettings,
) -> Metrics:
    """Compute the metrics of every trial list and scoring, with the record of the list beside them."""
    fitted = Calibration.from_dict(calibration)
    metrics = compute_metrics(scores, fitted, embeddings.utterances, score, trial_lists)
    for trial_list, scorings in metrics.items():
        error_rates = ", ".join(f"{scoring} {values['eer']:.3f} %" for scoring, values in scorings.items())
        logger.info("EER on %s: %s", trial_list, error_rates)
    return metrics
