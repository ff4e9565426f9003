"""Rules for every figure that the project makes: title, summary, axes with units, and both themes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speaker_verification.reporting import figures, theme
from speaker_verification.reporting.figures import comparison as comparison_figures
from speaker_verification.reporting.figures import layers as layer_figures
from speaker_verification.reporting.figures import scores as score_figures
from speaker_verification.reporting.figures import training as training_figures
from speaker_verification.scoring.breakdown import reliability
from speaker_verification.scoring.curves import det_points, score_histograms
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.floors import SOURCE
from tests.support.scores import calibration, scores_of, utterances_of
from tests.support.training import compress_settings, phase_settings

Figures = dict[str, Callable[[], Any]]


def drawn() -> Figures:
    """Every figure of the project, by the function that draws it, on small data."""
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 200)
    trials = scores_of(3.0 * label + rng.normal(size=400), label)
    fitted = calibration()
    metrics = compute_metrics(trials, fitted, utterances_of(trials), ScoreSettings(bootstrap_resamples=0))
    groups = pd.DataFrame({"trial_list": ["vox1_o"], "by": "gender", "group": "f", "eer": 1.0})
    groups = groups.assign(num_target=40, num_nontarget=40, fnr=1.0, fpr=1.0)
    names = ("threshold", *(f"{rate}{end}" for rate in score_figures.RATES for end in ("", "_low", "_high")))
    curve = pd.DataFrame({"epoch": [0, 1, 1], "metric": ["validation.eer"] * 2 + ["loss"], "value": 9.0})
    states = pd.DataFrame({"sequence": "frames", "state": [0, 1], "weight": [0.2, 0.8]})
    over_time = states.assign(utterance_id="id0/s/1.wav", seconds=0.5)
    points = det_points(trials, fitted)
    curve_of_run = comparison_figures.DetCurve(points[points["scoring"] == "qmf"], 5.0)
    pair = pd.DataFrame({"trial_list": ["vox1_o"], "first": "lap_astp", "second": "mhfa_slt22"})
    pair = pair.assign(difference=-1.0, low=-2.0, high=0.5, is_clear=False)
    return {
        "overlaid_det_figure": lambda: comparison_figures.overlaid_det_figure(
            {"lap_astp": [curve_of_run]}, "vox1_o"
        ),
        "difference_figure": lambda: comparison_figures.difference_figure(pair),
        "det_figure": lambda: score_figures.det_figure(points, metrics, fitted),
        "histogram_figure": lambda: score_figures.histogram_figure(
            score_histograms(trials, fitted), metrics, fitted
        ),
        "reliability_figure": lambda: score_figures.reliability_figure(reliability(trials, fitted)),
        "group_figure": lambda: score_figures.group_figure(groups, "gender"),
        "open_set_figure": lambda: score_figures.open_set_figure(pd.DataFrame({key: [1.0] for key in names})),
        "learning_curve_figure": lambda: training_figures.learning_curve_figure({"pretrain": curve}),
        "layer_weight_figure": lambda: layer_figures.layer_weight_figure(states.assign(low=0.1, high=0.9)),
        "layer_time_figure": lambda: layer_figures.layer_time_figure(over_time, "frames", "id0/s/1.wav"),
        "compression_figure": lambda: training_figures.compression_figure(compress_settings(), curve),
        "schedule_figure": lambda: training_figures.schedule_figure(phase_settings(), curve),
    }


FIGURES = drawn()


def test_every_figure_is_looked_at_here() -> None:
    folder = inspect.getfile(figures).removesuffix("__init__.py")
    files = [file for file in SOURCE.rglob("*.py") if str(file).startswith(folder)]
    found = {
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_figure")
    }
    assert found == set(FIGURES)
    elsewhere = "".join(file.read_text() for file in SOURCE.rglob("*.py") if file not in files)
    assert "go.Figure()" not in elsewhere


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_lacks_its_title_its_summary_or_an_axis_with_a_unit(name: str) -> None:
    layout = FIGURES[name]().layout.to_plotly_json()
    assert layout["title"]["text"]
    assert layout["meta"][theme.SUMMARY].endswith(".")
    axes = {key: axis for key, axis in layout.items() if re.fullmatch(r"[xy]axis\d*", key)}
    assert axes
    for key, axis in axes.items():
        if axis.get("matches") and axis.get("showticklabels") is False:  # the axis below it is the same
            continue
        text = axis.get("title", {}).get("text", "")
        assert re.fullmatch(r"[A-Z].+ \([^()]+\)", text), f"{name}: {key} is titled {text!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_can_be_read_on_white_and_on_black(name: str) -> None:
    layout = FIGURES[name]().layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    assert contrast(layout.font.color, "#ffffff") > 3.5
    assert contrast(layout.font.color, "#111418") > 3.5


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
