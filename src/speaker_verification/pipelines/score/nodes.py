"""Nodes that score trials from embeddings; none of them reads audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError, UserError
from speaker_verification.scoring import evaluation
from speaker_verification.scoring.adaptation import adapt
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
from speaker_verification.scoring.settings import EmbedSettings, ScoreSettings
from speaker_verification.scoring.sides import SideScorer
from speaker_verification.scoring.summary import Metrics, compute_metrics

logger = logging.getLogger(__name__)


def adapt_sets(
    cohort_embeddings: EmbeddingStore,
    calibration_embeddings: EmbeddingStore,
    adaptation_embeddings: EmbeddingStore,
    embed: EmbedSettings,
    score: ScoreSettings,
) -> tuple[EmbeddingStore, EmbeddingStore]:
    """Take cohort and calibration set into the domain of the adaptation set, where that is asked for."""
    stores = {"calibration_set": calibration_embeddings, "adaptation_set": adaptation_embeddings}
    for role in stores.keys() & embed.named_sets.keys():
        _refuse_other_set(role, embed.named_sets[role], stores[role])
    cohort_set, calibration_set = cohort_embeddings, calibration_embeddings
    if score.adaptation is not None:
        cohort_set = adapt(cohort_set, adaptation_embeddings, score.adaptation)
        if embed.calibration_set is not None:
            calibration_set = adapt(calibration_set, adaptation_embeddings, score.adaptation)
        num_recordings = len(adaptation_embeddings.utterances)
        logger.info("Adapted to %d recordings of %s", num_recordings, embed.adaptation_set)
    return cohort_set, cohort_set if embed.calibration_set is None else calibration_set


def _refuse_other_set(role: str, name: str, store: EmbeddingStore) -> None:
    from speaker_verification.corpora.subsets import subsets_of

    embedded = store.utterances["subset"].unique().tolist()
    if set(embedded) != set(subsets_of(name)):
        raise DataError(
            f"parameter 'embed.{role}' is '{name}', but what was embedded for it is "
            f"{', '.join(embedded) or 'nothing'}: run the embed pipeline anew"
        )


def summarise_cohort(cohort_set: EmbeddingStore, embeddings: EmbeddingStore, score: ScoreSettings) -> Cohort:
    """Make the cohort that embeddings are centred on and scores are normalised against."""
    embeddings.refuse_other_model(cohort_set)
    return Cohort.of(cohort_set, score.cohort, score.centre)


def fit_scorings(
    cohort_set: EmbeddingStore,
    calibration_set: EmbeddingStore,
    cohort: Cohort,
    validation_utterances: pd.DataFrame,
    score: ScoreSettings,
    seed: int,
    device: str,
) -> tuple[dict[str, Any], dict[str, Fitted]]:
    """Fit every scoring on the cohort set, and its calibration on trials drawn from the calibration set."""
    cohort_set.refuse_other_model(calibration_set)
    drawn = calibration_trials(calibration_set.utterances, validation_utterances, score, seed)
    calibration, fitted = evaluation.fit_scorings(
        cohort_set, cohort, drawn, score, score.budget(device), calibration_set
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
