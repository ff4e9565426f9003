"""Wiring of the `package` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    COHORT_EMBEDDINGS,
    EVALUATION_TAG,
    LAST_CHECKPOINT,
    PACKAGE_WORKSPACE,
)
from speaker_verification.pipelines.package.nodes import (
    assemble_verifier,
    collect_decision_parts,
    describe_origin,
    prove_verifier,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Checkpoint, cohort, fitted scorings, calibration and metrics in, a proven verifier folder out."""
    nodes = [
        Node(
            describe_origin,
            [
                "training_utterances",
                "embeddings",
                "noise_clips",
                "rirs",
                "params:prepare",
                "params:augmentation",
                "params:embed",
                "params:score",
                "params:recipe",
            ],
            "origin",
            name="describe_origin",
        ),
        Node(
            collect_decision_parts,
            [
                COHORT_EMBEDDINGS,
                ADAPTATION_EMBEDDINGS,
                "calibration",
                "fitted_scorings",
                "params:embed",
                "params:score",
                "params:package",
            ],
            "decision_parts",
            name="collect_decision_parts",
        ),
        Node(
            assemble_verifier,
            [
                "trained_checkpoint",
                "decision_parts",
                "metrics",
                "origin",
                "params:embed",
                "params:package",
                PACKAGE_WORKSPACE,
            ],
            "assembled_verifier",
            name="assemble_verifier",
        ),
        Node(
            prove_verifier,
            ["assembled_verifier", "scores", "embeddings", "params:device"],
            "verifier",
            name="prove_verifier",
        ),
    ]
    return Pipeline(
        nodes,
        inputs={"trained_checkpoint": LAST_CHECKPOINT},
        namespace="package",
        tags=EVALUATION_TAG,
        prefix_datasets_with_namespace=False,
    )
