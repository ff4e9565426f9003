"""Nodes that make results readable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.config.phases import PHASES
from speaker_verification.reporting.figures.scores import (
    det_figure,
    histogram_figure,
    open_set_figure,
    reliability_figure,
)
from speaker_verification.scoring import curves
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.settings import ReportSettings
from speaker_verification.scoring.summary import Metrics, format_table

logger = logging.getLogger(__name__)


def tabulate_results(metrics: Metrics) -> str:
    """Lay the error rates out as a table, and log it."""
    table = format_table(metrics)
    logger.info("Results\n%s", table)
    return table


def tabulate_det_points(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Thin the detection error trade-off of every trial list and scoring to a few hundred points."""
    return curves.det_points(scores, Calibration.from_dict(calibration))


def draw_det_curves(det_points: pd.DataFrame, metrics: Metrics, calibration: Mapping[str, Any]) -> Figure:
    """Draw the detection error trade-off of every trial list and scoring."""
    return det_figure(det_points, metrics, Calibration.from_dict(calibration))


def tabulate_histograms(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Count the scores of targets and non-targets of every trial list and scoring in bins."""
    return curves.score_histograms(scores, Calibration.from_dict(calibration))


def draw_score_histograms(
    histogram_bins: pd.DataFrame, metrics: Metrics, calibration: Mapping[str, Any]
) -> Figure:
    """Draw the scores of targets and non-targets of every trial list and scoring."""
    return histogram_figure(histogram_bins, metrics, Calibration.from_dict(calibration))


def tabulate_reliability(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> pd.DataFrame:
    """Lay the log-likelihood ratios beside those that the labels show."""
    return reliability(scores, Calibration.from_dict(calibration))


def draw_reliability(reliability: pd.DataFrame) -> Figure:
    """Draw the log-likelihood ratios over those that the labels show."""
    return reliability_figure(reliability)


def draw_open_set_curves(open_set_rates: pd.DataFrame) -> Figure:
    """Draw the error rates of identification over the threshold."""
    return open_set_figure(open_set_rates)


def tabulate_rates_by_group(
    scores: pd.DataFrame,
    calibration: Mapping[str, Any],
    utterances: pd.DataFrame,
    speakers: pd.DataFrame,
    report: ReportSettings,
) -> pd.DataFrame:
    """Lay the error rates out by duration and, where they are known, by gender and nationality."""
    return rates_by_group(scores, Calibration.from_dict(calibration), utterances, speakers, report)


def list_worst_trials(scores: pd.DataFrame, report: ReportSettings) -> pd.DataFrame:
    """List the lowest targets and the highest non-targets of every trial list."""
    return worst_trials(scores, report.worst_trials)


def draw_learning_curves(*learning_curves: pd.DataFrame) -> Figure:
    """Draw loss and validation error rate over the training phases, whose curves come in their order."""
    from speaker_verification.reporting.figures.training import learning_curve_figure

    return learning_curve_figure(dict(zip(PHASES, learning_curves, strict=True)))
