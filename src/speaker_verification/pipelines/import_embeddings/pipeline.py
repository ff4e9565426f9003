"""Wiring of the `import_embeddings` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import COHORT_EMBEDDINGS, EMBEDDINGS
from speaker_verification.pipelines.import_embeddings.nodes import (
    import_cohort_embeddings,
    import_trial_embeddings,
    read_trials,
    read_utterances,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Files of another toolkit in; the tables and stores that `score` and `report` take out."""
    settings = "params:import_embeddings"
    nodes = [
        Node(
            read_utterances,
            settings,
            ["imported_utterances", "speakers", "validation_utterances"],
            name="read_utterances",
        ),
        Node(
            read_trials,
            [settings, "imported_utterances"],
            ["trials", "trial_lists"],
            name="read_trials",
        ),
        Node(
            import_trial_embeddings,
            ["imported_utterances", "trials", settings],
            EMBEDDINGS,
            name="import_trial_embeddings",
        ),
        Node(
            import_cohort_embeddings,
            ["imported_utterances", EMBEDDINGS, settings, "params:embed"],
            COHORT_EMBEDDINGS,
            name="import_cohort_embeddings",
        ),
    ]
    return Pipeline(nodes, namespace="import_embeddings", prefix_datasets_with_namespace=False)
