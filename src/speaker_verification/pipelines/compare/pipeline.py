"""Wiring of the `compare` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import COMPARE, COMPARED, COSTS, PLANNED
from speaker_verification.pipelines import compare_runs
from speaker_verification.pipelines.compare.nodes import train_systems

PREPARED = (  # inputs of the training phases, on which the results depend
    "utterances",
    "training_utterances",
    "validation_utterances",
    "validation_trials",
    "trials",
    "noise_clips",
    "rirs",
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """A prepared corpus in; models of all systems, and the tables and page of `compare_runs` on them, out."""
    train = Node(
        train_systems,
        inputs=[PLANNED, f"params:{COMPARE}", f"{COMPARE}.workspace", *PREPARED],
        outputs=[COMPARED, COSTS],
        name="train_systems",
    )
    compared = compare_runs.create_pipeline(COSTS)
    return Pipeline(Pipeline([train]) + compared, tags=COMPARE)
