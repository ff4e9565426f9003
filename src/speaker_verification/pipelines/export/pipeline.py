"""Wiring of the `export` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.export.nodes import export_scores


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Scores in, a text file for each trial list and scoring out."""
    return Pipeline([Node(export_scores, ["scores", "calibration"], "scores_text", name="export_scores")])
