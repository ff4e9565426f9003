"""Nodes that compare evaluations."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from speaker_verification.pipelines.compare_runs.evaluations import (
    EvaluationAddress,
    find_evaluation,
    read_evaluation,
)
from speaker_verification.reporting.comparison import (
    ComparedRun,
    Comparison,
    render_comparison,
    sentences,
    tabulate_differences,
    tabulate_rates,
)
from speaker_verification.scoring.settings import CompareRunsSettings

logger = logging.getLogger(__name__)


def read_evaluations(compared_evaluations: Sequence[EvaluationAddress]) -> list[ComparedRun]:
    """Read evaluations from their data roots; of each the given version, or the newest."""
    return [
        read_evaluation(find_evaluation(one.root, one.version), one.system) for one in compared_evaluations
    ]


def compare_error_rates(
    compared_runs: list[ComparedRun], compare_runs: CompareRunsSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the error rates of all systems on the same trials, and log the differences."""
    comparison = _comparison(compared_runs, compare_runs)
    rates, differences = tabulate_rates(comparison), tabulate_differences(comparison)
    for sentence in sentences(rates, differences):
        logger.info(sentence)
    return rates, differences


def write_comparison(
    compared_runs: list[ComparedRun],
    compared_rates: pd.DataFrame,
    rate_differences: pd.DataFrame,
    compare_runs: CompareRunsSettings,
    training_costs: pd.DataFrame | None = None,
) -> str:
    """Write the comparison on one page, with the costs of the trainings where they are known."""
    comparison = _comparison(compared_runs, compare_runs)
    return render_comparison(comparison, compared_rates, rate_differences, training_costs)


def _comparison(runs: list[ComparedRun], settings: CompareRunsSettings) -> Comparison:
    return Comparison(runs, settings.scoring, settings.bootstrap_resamples)
