"""Nodes that score trials from embeddings; none of them reads audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.scoring.calibration import Calibration, calibration_trials, fit_calibration
from speaker_verification.scoring.cosine import (
    centre_and_normalise,
    centre_of,
    cosine_scores,
    trial_scores,
)
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.normalisation import Cohort, as_norm, cohort_statistics
from speaker_verification.scoring.qmf import calibration_features, qmf_features, quality_measures
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import Metrics, measure
from speaker_verification.tables import SCORES

logger = logging.getLogger(__name__)


def score_trials(
    trials: pd.DataFrame,
    embeddings: EmbeddingStore,
    cohort_embeddings: EmbeddingStore,
    score: Mapping[str, Any],
) -> pd.DataFrame:
    """Add the column `cosine` to the trials."""
    settings = ScoreSettings.parse(score, "score")
    centre = centre_of(cohort_embeddings, settings.centre)
    return trials.assign(cosine=trial_scores(embeddings, centre, *_rows_of_trials(trials, embeddings)))


def normalise_scores(
    scored_trials: pd.DataFrame,
    embeddings: EmbeddingStore,
    cohort_embeddings: EmbeddingStore,
    score: Mapping[str, Any],
) -> pd.DataFrame:
    """Add the column `as_norm`: the whole utterances' cosines, normalised against the cohort's."""
    settings = ScoreSettings.parse(score, "score")
    centre = centre_of(cohort_embeddings, settings.centre)
    cohort = Cohort.of(cohort_embeddings, settings.cohort).embeddings - centre
    directions = centre_and_normalise(embeddings.embeddings, centre)
    mean, std = cohort_statistics(directions, cohort, settings.cohort_size, deviation=settings.deviation)
    enroll, test = _rows_of_trials(scored_trials, embeddings)
    cosine = cosine_scores(directions, enroll, test)
    normalised = as_norm(cosine, (mean[enroll], std[enroll]), (mean[test], std[test]))
    return scored_trials.assign(as_norm=normalised)


def fit_score_calibration(
    cohort_embeddings: EmbeddingStore,
    validation_utterances: pd.DataFrame,
    score: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Fit the calibration of every scoring on trials drawn from the cohort set."""
    settings = ScoreSettings.parse(score, "score")
    trials = calibration_trials(cohort_embeddings.utterances, validation_utterances, settings, seed)
    features = calibration_features(cohort_embeddings, trials, settings)
    centre = centre_of(cohort_embeddings, settings.centre)
    cosine = trial_scores(cohort_embeddings, centre, trials.enroll_rows, trials.test_rows)
    return fit_calibration(cosine, features, trials.labels, centre, settings).to_dict()


def calibrate_scores(
    normalised_scores: pd.DataFrame, embeddings: EmbeddingStore, calibration: Mapping[str, Any]
) -> pd.DataFrame:
    """Add the columns `qmf`, which the quality of both sides enters, and `llr` to the normalised scores."""
    quality = quality_measures(embeddings.embeddings, embeddings.utterances["duration_seconds"])
    enroll, test = _rows_of_trials(normalised_scores, embeddings)
    features = qmf_features(normalised_scores["as_norm"], quality[enroll], quality[test])
    fitted = Calibration.from_dict(calibration)
    of_qmf = fitted.qmf.log_likelihood_ratio(features)
    scores = normalised_scores.assign(qmf=fitted.qmf.probability(features), llr=of_qmf)
    if fitted.llr != "qmf":
        scores = scores.assign(llr=fitted.log_likelihood_ratios(scores)[fitted.llr])
    return SCORES.conform(scores)


def measure_error_rates(
    scores: pd.DataFrame, calibration: Mapping[str, Any], score: Mapping[str, Any]
) -> Metrics:
    """Measure every trial list under every scoring."""
    settings = ScoreSettings.parse(score, "score")
    metrics = measure(scores, Calibration.from_dict(calibration), settings)
    for trial_list, scorings in metrics.items():
        error_rates = ", ".join(f"{scoring} {values['eer']:.3f} %" for scoring, values in scorings.items())
        logger.info("EER on %s: %s", trial_list, error_rates)
    return metrics


def _rows_of_trials(trials: pd.DataFrame, embeddings: EmbeddingStore) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the store (trials,) of the two sides of each trial."""
    return embeddings.rows_of(trials["enroll_id"]), embeddings.rows_of(trials["test_id"])
