"""Wiring of the `measure` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.measure.nodes import measure_score_file


def create_pipeline(**kwargs: Any) -> Pipeline:
    """The parameter `measure.score_file` in, its error rates out."""
    inputs = ["params:measure", "params:score"]
    return Pipeline([Node(measure_score_file, inputs, "score_file_metrics", name="measure_score_file")])
