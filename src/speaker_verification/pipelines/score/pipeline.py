"""Wiring of the `score` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    CALIBRATION_EMBEDDINGS,
    COHORT_EMBEDDINGS,
    EVALUATION_TAG,
)
from speaker_verification.pipelines.score.nodes import (
    adapt_sets,
    fit_scorings,
    measure_error_rates,
    measure_identification,
    score_trials,
    summarise_cohort,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Trials and embeddings in, scores and error rates of every scoring out."""
    shared = ["params:score", "params:device"]
    fitted = ["calibration", "fitted_scorings"]
    nodes = [
        Node(
            adapt_sets,
            [
                COHORT_EMBEDDINGS,
                CALIBRATION_EMBEDDINGS,
                ADAPTATION_EMBEDDINGS,
                "params:embed",
                "params:score",
            ],
            ["cohort_set", "calibration_set"],
            name="adapt_sets",
        ),
        Node(
            summarise_cohort,
            ["cohort_set", "embeddings", "params:score"],
            "cohort",
            name="summarise_cohort",
        ),
        Node(
            fit_scorings,
            [
                "cohort_set",
                "calibration_set",
                "cohort",
                "validation_utterances",
                "params:score",
                "params:seed",
                "params:device",
            ],
            fitted,
            name="fit_scorings",
        ),
        Node(
            score_trials, ["trials", "embeddings", "cohort", *fitted, *shared], "scores", name="score_trials"
        ),
        Node(
            measure_identification,
            ["embeddings", "cohort", *fitted, "params:score", "params:seed", "params:device"],
            "open_set_rates",
            name="measure_identification",
        ),
        Node(
            measure_error_rates,
            ["scores", "calibration", "embeddings", "trial_lists", "params:score"],
            "metrics",
            name="measure_error_rates",
        ),
    ]
    return Pipeline(nodes, namespace="score", tags=EVALUATION_TAG, prefix_datasets_with_namespace=False)
