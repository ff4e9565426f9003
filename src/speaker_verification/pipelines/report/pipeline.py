"""Wiring of the `report` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.pipelines.report.nodes import (
    draw_det_curves,
    draw_learning_curves,
    tabulate_results,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Metrics, scores and learning curves in, a table and two figures out."""
    curves = {
        f"{phase}_learning_curve": f"{phase}.learning_curve" for phase in ("pretrain", "finetune", "lmft")
    }
    nodes = [
        Node(tabulate_results, "metrics", "results_table", name="tabulate_results"),
        Node(draw_det_curves, "scores", "det_curves", name="draw_det_curves"),
        Node(draw_learning_curves, list(curves), "learning_curves", name="draw_learning_curves"),
    ]
    return Pipeline(nodes, inputs=curves, namespace="report", prefix_datasets_with_namespace=False)
