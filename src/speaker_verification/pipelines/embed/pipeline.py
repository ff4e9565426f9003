"""Wiring of the `embed` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    CALIBRATION_EMBEDDINGS,
    COHORT_EMBEDDINGS,
    DISTRIBUTED_TAG,
    EMBED_WORKSPACE,
    EMBEDDINGS,
    EVALUATION_TAG,
    LAST_CHECKPOINT,
)
from speaker_verification.pipelines.embed.nodes import (
    embed_adaptation_set,
    embed_calibration_set,
    embed_cohort,
    embed_trial_utterances,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Large-margin checkpoint and manifests in, embedding stores of all sets out."""
    inputs = [
        "utterances",
        "trials",
        "params:embed",
        "params:device",
        EMBED_WORKSPACE,
    ]
    model = "trained_checkpoint"
    nodes = [
        Node(embed_trial_utterances, [model, *inputs], EMBEDDINGS, name="embed_trial_utterances"),
        Node(embed_cohort, [model, *inputs], COHORT_EMBEDDINGS, name="embed_cohort"),
        Node(
            embed_calibration_set,
            [model, COHORT_EMBEDDINGS, *inputs],
            CALIBRATION_EMBEDDINGS,
            name="embed_calibration_set",
        ),
        Node(
            embed_adaptation_set,
            [model, COHORT_EMBEDDINGS, CALIBRATION_EMBEDDINGS, *inputs],
            ADAPTATION_EMBEDDINGS,
            name="embed_adaptation_set",
        ),
    ]
    return Pipeline(
        nodes,
        inputs={model: LAST_CHECKPOINT},
        namespace="embed",
        tags=[EVALUATION_TAG, DISTRIBUTED_TAG],
        prefix_datasets_with_namespace=False,
    )
