"""Wiring of the `score` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.score.nodes import (
    calibrate_scores,
    fit_score_calibration,
    measure_error_rates,
    normalise_scores,
    score_trials,
    summarise_cohort,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Trials and embeddings in, scores and error rates out: three scoring phases, each built on the last."""
    cohort = [
        Node(
            summarise_cohort,
            ["cohort_embeddings", "embeddings", "params:score"],
            "cohort",
            name="summarise_cohort",
        )
    ]
    cosine = [
        Node(
            score_trials,
            ["trials", "embeddings", "cohort", "params:score"],
            "scored_trials",
            name="score_trials",
        )
    ]
    as_norm = [
        Node(
            normalise_scores,
            ["scored_trials", "embeddings", "cohort", "params:score", "params:device"],
            "normalised_scores",
            name="normalise_scores",
        )
    ]
    qmf = [
        Node(
            fit_score_calibration,
            [
                "cohort_embeddings",
                "cohort",
                "validation_utterances",
                "params:score",
                "params:seed",
                "params:device",
            ],
            "calibration",
            name="fit_score_calibration",
        ),
        Node(
            calibrate_scores,
            ["normalised_scores", "embeddings", "calibration", "params:score"],
            "scores",
            name="calibrate_scores",
        ),
    ]
    measure = [
        Node(
            measure_error_rates,
            ["scores", "calibration", "embeddings", "trial_lists", "params:score"],
            "metrics",
            name="measure_error_rates",
            tags="evaluation",
        )
    ]
    return (
        Pipeline(cohort)
        + Pipeline(cosine, namespace="cosine", prefix_datasets_with_namespace=False)
        + Pipeline(as_norm, namespace="as_norm", prefix_datasets_with_namespace=False)
        + Pipeline(qmf, namespace="qmf", prefix_datasets_with_namespace=False)
        + Pipeline(measure)
    )
