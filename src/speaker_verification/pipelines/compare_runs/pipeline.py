"""Wiring of the `compare_runs` pipeline."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Node, Pipeline

from speaker_verification.config.phases import COMPARED, COMPARISON
from speaker_verification.pipelines.compare_runs.nodes import (
    compare_error_rates,
    read_evaluations,
    write_comparison,
)


def create_pipeline(costs: str | None = None, **kwargs: Any) -> Pipeline:
    """Addresses of evaluations in, tables of rates and differences and a page with both out.

    Args:
        costs: dataset of what the trainings have cost, for the page; None: it is not known.
        **kwargs: arguments that Kedro may give.
    """
    settings = "params:compare_runs"
    return Pipeline(
        [
            Node(read_evaluations, COMPARED, "compared_runs", name="read_evaluations"),
            Node(
                compare_error_rates,
                ["compared_runs", settings],
                ["compared_rates", "rate_differences"],
                name="compare_error_rates",
            ),
            Node(
                write_comparison,
                [
                    "compared_runs",
                    "compared_rates",
                    "rate_differences",
                    settings,
                    *([costs] if costs else []),
                ],
                COMPARISON,
                name="write_comparison",
            ),
        ]
    )
