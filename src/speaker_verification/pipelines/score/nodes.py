"""Nodes that score trials from embeddings; none of them reads audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.tables import SCORES
from speaker_verification.scoring.calibration import Calibration, calibration_trials, fit_calibration
from speaker_verification.scoring.cosine import cosine_scores, trial_scores
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.normalisation import Cohort, as_norm_of_trials, cohort_statistics
from speaker_verification.scoring.qmf import (
    calibrated_ratios,
    calibration_features,
    probability,
    quality_measures,
)
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import Metrics, compute_metrics

logger = logging.getLogger(__name__)


def summarise_cohort(
    cohort_embeddings: EmbeddingStore, embeddings: EmbeddingStore, score: ScoreSettings
) -> Cohort:
    """Take from the cohort set what embeddings are centred on and scores are normalised against."""
    embeddings.refuse_other_model(cohort_embeddings)
    return Cohort.of(cohort_embeddings, score.cohort, score.centre)


def score_trials(
    trials: pd.DataFrame, embeddings: EmbeddingStore, cohort: Cohort, score: ScoreSettings
) -> pd.DataFrame:
    """Add the column `cosine` to the trials."""
    budget = score.budget()
    rows = _rows_of_trials(trials, embeddings)
    return trials.assign(cosine=trial_scores(embeddings, cohort.centre, *rows, budget))


def normalise_scores(
    scored_trials: pd.DataFrame,
    embeddings: EmbeddingStore,
    cohort: Cohort,
    score: ScoreSettings,
    device: str,
) -> pd.DataFrame:
    """Add the column `as_norm`: the whole utterances' cosines, normalised against the cohort's."""
    budget = score.budget(device)
    rows = _rows_of_trials(scored_trials, embeddings)
    if embeddings.crops is None:
        cosine = scored_trials["cosine"].to_numpy()
    else:
        cosine = cosine_scores(embeddings.embeddings, cohort.centre, *rows, budget)
    statistics = cohort_statistics(
        embeddings.embeddings,
        cohort.embeddings,
        score.top_n,
        centre=cohort.centre,
        deviation=score.deviation,
        budget=budget,
    )
    return scored_trials.assign(as_norm=as_norm_of_trials(cosine, statistics, *rows, budget))


def fit_score_calibration(
    cohort_embeddings: EmbeddingStore,
    cohort: Cohort,
    validation_utterances: pd.DataFrame,
    score: ScoreSettings,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Fit the calibration of every scoring on trials drawn from the cohort set."""
    budget = score.budget(device)
    trials = calibration_trials(cohort_embeddings.utterances, validation_utterances, score, seed)
    cosine, features = calibration_features(cohort_embeddings, trials, cohort, score, budget)
    fitted = fit_calibration(cosine, features, trials.labels, cohort.centre, score)
    for point in fitted.operating_points:
        for remark in fitted.remarks(point).values():
            logger.warning("%s", remark)
    return fitted.to_dict()


def calibrate_scores(
    normalised_scores: pd.DataFrame,
    embeddings: EmbeddingStore,
    calibration: Mapping[str, Any],
    score: ScoreSettings,
) -> pd.DataFrame:
    """Add the columns `qmf`, which the quality of both sides enters, and `llr` to the normalised scores."""
    budget = score.budget()
    fitted = Calibration.from_dict(calibration)
    seconds = embeddings.utterances["duration_seconds"]
    quality = quality_measures(embeddings.embeddings, seconds, budget)
    as_norm, rows = normalised_scores["as_norm"].to_numpy(), _rows_of_trials(normalised_scores, embeddings)
    of_qmf = calibrated_ratios(fitted.qmf, as_norm, quality, *rows, budget)
    scores = normalised_scores.assign(qmf=probability(of_qmf), llr=of_qmf)
    if fitted.llr != "qmf":
        scores = scores.assign(llr=fitted.log_likelihood_ratios(scores)[fitted.llr])
    return SCORES.conform(scores)


def measure_error_rates(
    scores: pd.DataFrame,
    calibration: Mapping[str, Any],
    embeddings: EmbeddingStore,
    trial_lists: pd.DataFrame,
    score: ScoreSettings,
) -> Metrics:
    """Measure every trial list under every scoring, with the record of the list beside the figures."""
    fitted = Calibration.from_dict(calibration)
    metrics = compute_metrics(scores, fitted, embeddings.utterances, score, trial_lists)
    for trial_list, scorings in metrics.items():
        error_rates = ", ".join(f"{scoring} {values['eer']:.3f} %" for scoring, values in scorings.items())
        logger.info("EER on %s: %s", trial_list, error_rates)
    return metrics


def _rows_of_trials(trials: pd.DataFrame, embeddings: EmbeddingStore) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the store (trials,) of the two sides of each trial."""
    return embeddings.rows_of(trials["enroll_id"]), embeddings.rows_of(trials["test_id"])
