"""Wiring of the `report` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import (
    EVALUATION_TAG,
    LAST_CHECKPOINT,
    PHASES,
    REPORT,
    RUN_RECORD,
    learning_curve_of,
)
from speaker_verification.pipelines.report.nodes import (
    describe_evaluation,
    draw_det_curves,
    draw_layer_weights,
    draw_learning_curves,
    draw_open_set_curves,
    draw_reliability,
    draw_score_histograms,
    encode_players,
    list_worst_trials,
    measure_layer_weights,
    tabulate_det_points,
    tabulate_histograms,
    tabulate_rates_by_group,
    tabulate_reliability,
    tabulate_results,
    write_report,
)


def create_pipeline(**kwargs: Any) -> Pipeline:
    """Metrics, scores, learning curves and the model in; tables, figures and a page with all of them out."""
    curves = [learning_curve_of(phase) for phase in PHASES]
    scores = ["scores", "calibration"]
    nodes = [
        Node(tabulate_results, "metrics", "results_table", name="tabulate_results"),
        Node(tabulate_det_points, scores, "det_points", name="tabulate_det_points"),
        Node(
            draw_det_curves,
            ["det_points", "metrics", "calibration"],
            "det_curves",
            name="draw_det_curves",
        ),
        Node(tabulate_histograms, scores, "histogram_bins", name="tabulate_histograms"),
        Node(
            draw_score_histograms,
            ["histogram_bins", "metrics", "calibration"],
            "score_histograms",
            name="draw_score_histograms",
        ),
        Node(tabulate_reliability, scores, "reliability", name="tabulate_reliability"),
        Node(draw_reliability, "reliability", "reliability_curves", name="draw_reliability"),
        Node(draw_open_set_curves, "open_set_rates", "open_set_curves", name="draw_open_set_curves"),
        Node(
            tabulate_rates_by_group,
            [*scores, "embeddings", "speakers", "params:report"],
            "rates_by_group",
            name="tabulate_rates_by_group",
        ),
        Node(list_worst_trials, ["scores", "params:report"], "worst_trials", name="list_worst_trials"),
        Node(draw_learning_curves, curves, "learning_curves", name="draw_learning_curves"),
        Node(
            measure_layer_weights,
            ["trained_checkpoint", "embeddings", "params:embed", "params:report", "params:device"],
            ["layer_weights", "layer_weights_over_time"],
            name="measure_layer_weights",
        ),
        Node(draw_layer_weights, "layer_weights", "layer_weight_bars", name="draw_layer_weights"),
        Node(
            encode_players,
            ["worst_trials", "embeddings", "params:report"],
            "players",
            name="encode_players",
        ),
        Node(
            describe_evaluation,
            [
                RUN_RECORD,
                "metrics",
                "calibration",
                "embeddings",
                "trained_checkpoint",
                "params:prepare",
                "params:embed",
            ],
            "verdict",
            name="describe_evaluation",
        ),
        Node(
            write_report,
            [
                "verdict",
                "metrics",
                "calibration",
                "det_points",
                "histogram_bins",
                "reliability",
                "rates_by_group",
                "worst_trials",
                "open_set_rates",
                "layer_weights",
                "layer_weights_over_time",
                "players",
                *curves,
            ],
            "report",
            name="write_report",
        ),
    ]
    return Pipeline(
        nodes,
        inputs={"trained_checkpoint": LAST_CHECKPOINT, **{curve: curve for curve in curves}},
        namespace=REPORT,
        tags=EVALUATION_TAG,
        prefix_datasets_with_namespace=False,
    )
