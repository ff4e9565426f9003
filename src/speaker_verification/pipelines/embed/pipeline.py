"""Wiring of the `embed` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    COHORT_EMBEDDINGS,
    DISTRIBUTED_TAG,
    EMBED_WORKSPACE,
    EMBEDDINGS,
    EVALUATION_TAG,
    LAST_CHECKPOINT,
)
from speaker_verification.pipelines.embed.nodes import embed_cohort, embed_trial_utterances


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Large-margin checkpoint and manifests in, two embedding stores out."""
    inputs = [
        "trained_checkpoint",
        "utterances",
        "trials",
        "params:embed",
        "params:device",
        EMBED_WORKSPACE,
    ]
    nodes = [
        Node(embed_trial_utterances, inputs, EMBEDDINGS, name="embed_trial_utterances"),
        Node(embed_cohort, inputs, COHORT_EMBEDDINGS, name="embed_cohort"),
    ]
    return Pipeline(
        nodes,
        inputs={"trained_checkpoint": LAST_CHECKPOINT},
        namespace="embed",
        tags=[EVALUATION_TAG, DISTRIBUTED_TAG],
        prefix_datasets_with_namespace=False,
    )
