from __future__ import annotations

import pandas as pd
import pytest

from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.reporting.figures.training import (
    compression_figure,
    learning_curve_figure,
    schedule_figure,
)
from tests.support.training import compress_settings, phase_settings

CURVE = pd.DataFrame(
    [
        {"epoch": 0, "metric": "validation.eer", "value": 50.0},
        {"epoch": 1, "metric": "learning_rate", "value": 8.0},
        {"epoch": 1, "metric": "margin", "value": 0.2},
        {"epoch": 2, "metric": "learning_rate", "value": 4.0},
        {"epoch": 2, "metric": "margin", "value": 0.2},
    ]
)


def test_the_figure_draws_rates_and_margin_over_the_epochs() -> None:
    """Step decay from 8 in every epoch of two; the margin grows linearly over the first."""
    figure = schedule_figure(
        phase_settings(
            frontend="trained",
            learning_rate={"schedule": "step", "maximum": 8.0, "minimum": 0.0, "step": {"factor": 0.5}},
            lr_multipliers={"frontend": 0.25},
            margin={"final": 0.2, "curve": "linear", "growth_epochs": 1, "top_k": 2, "top_k_penalty": 0.06},
        ),
        CURVE,
    )
    lines = {line.name: dict(zip(line.x, line.y, strict=True)) for line in figure.data}
    assert list(lines) == [
        "learning rate of head, backend",
        "learning rate of frontend",
        "margin",
        "inter-top-k penalty",
        "learning rate at the end of an epoch",
        "margin at the end of an epoch",
    ]
    head, frontend, margin, penalty, rate_markers, margin_markers = lines.values()
    assert (head[0.0], head[0.99], head[1.0]) == (8.0, 8.0, 4.0)
    assert frontend[1.5] == 1.0
    assert (margin[0.0], margin[0.99], margin[1.5]) == pytest.approx((0.0, 0.2, 0.2))
    assert penalty[1.5] == pytest.approx(0.06)
    assert max(head) == 1.99
    assert rate_markers == {1: 8.0, 2: 4.0}
    assert margin_markers == {1: 0.2, 2: 0.2}


def test_a_frozen_frontend_has_no_rate_and_a_phase_without_epochs_an_empty_figure() -> None:
    figure = schedule_figure(phase_settings(epochs=0, margin={"top_k": 0}), CURVE.head(1))
    assert [line.name for line in figure.data][:2] == ["learning rate of head, backend", "margin"]


def curve_of(losses: list[float], rates: list[float]) -> pd.DataFrame:
    rows = [(epoch, "loss", value) for epoch, value in enumerate(losses, start=1)]
    rows += [(epoch, "validation.eer", value) for epoch, value in enumerate(rates)]
    return pd.DataFrame(rows, columns=["epoch", "metric", "value"])


def test_a_compression_shows_its_sparsities_in_percent_over_its_error_rate() -> None:
    points = {
        ("validation.eer", 0): 1.0,
        ("validation.eer", 1): 2.5,
        ("validation.eer", 2): 1.5,
        ("sparsity", 1): 0.25,
        ("sparsity", 2): 0.25,
        ("expected_sparsity", 1): 0.24,
        ("wanted_sparsity", 1): 0.3,
    }
    rows = [{"epoch": epoch, "metric": metric, "value": value} for (metric, epoch), value in points.items()]
    figure = compression_figure(compress_settings(epochs=2, recovery_epochs=1), pd.DataFrame(rows))
    lines = {line.name: dict(zip(line.x, line.y, strict=True)) for line in figure.data}
    assert lines == {
        "of the model that is kept": {1: 25.0, 2: 25.0},
        "expected by the gates": {1: 24.0},
        "wanted": {1: 30.0},
        "validation EER": {0: 1.0, 1: 2.5, 2: 1.5},
    }
    recovery = figure.layout.shapes[0]
    assert (recovery.x0, recovery.x1) == (1, 2)
    assert "1.00 % before and 1.50 % at the end" in figure.layout.meta["summary"]


def test_phases_follow_each_other_along_the_epochs() -> None:
    curves = {"pretrain": curve_of([9.0, 8.0], [40.0, 30.0, 20.0]), "finetune": curve_of([7.0], [20.0, 5.0])}
    figure = learning_curve_figure(curves)
    drawn = [(trace.name, trace.yaxis, list(trace.x), list(trace.y)) for trace in figure.data]
    assert drawn == [
        ("pretrain", "y", [1, 2], [9.0, 8.0]),
        ("pretrain", "y2", [0, 1, 2], [40.0, 30.0, 20.0]),
        ("finetune", "y", [3], [7.0]),
        ("finetune", "y2", [2, 3], [20.0, 5.0]),
    ]
    assert [note.text for note in figure.layout.annotations] == ["pretrain", "finetune"]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0, 2), (2, 3)]


def test_phases_that_were_never_run_are_left_out() -> None:
    curves = {"pretrain": LEARNING_CURVE.empty(), "finetune": curve_of([7.0], [40.0, 5.0])}
    assert [trace.name for trace in learning_curve_figure(curves).data] == ["finetune", "finetune"]
    assert not learning_curve_figure({"pretrain": LEARNING_CURVE.empty()}).data


def test_phase_of_no_epochs_takes_no_room() -> None:
    curves = {"pretrain": curve_of([], [40.0]), "finetune": curve_of([7.0], [40.0, 5.0])}
    figure = learning_curve_figure(curves)
    assert [list(trace.x) for trace in figure.data] == [[], [0], [1], [0, 1]]
