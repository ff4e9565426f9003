"""Nodes that make results readable."""

from __future__ import annotations

import logging

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.scoring.figures import det_figure, learning_curve_figure
from speaker_verification.scoring.summary import Metrics, format_table

logger = logging.getLogger(__name__)


def tabulate_results(metrics: Metrics) -> str:
    """Lay the error rates out as a table, and log it."""
    table = format_table(metrics)
    logger.info("Results\n%s", table)
    return table


def draw_det_curves(scores: pd.DataFrame) -> Figure:
    """Draw the detection error trade-off of every trial list and scoring."""
    return det_figure(scores)


def draw_learning_curves(
    pretrain_learning_curve: pd.DataFrame,
    finetune_learning_curve: pd.DataFrame,
    lmft_learning_curve: pd.DataFrame,
) -> Figure:
    """Draw loss and validation error rate over the three training phases."""
    return learning_curve_figure(
        {
            "pretrain": pretrain_learning_curve,
            "finetune": finetune_learning_curve,
            "lmft": lmft_learning_curve,
        }
    )
