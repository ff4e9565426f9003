"""Plotly figures of a training phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.phase_schedule import PhaseSchedule

if TYPE_CHECKING:
    import plotly.graph_objects as go

STEPS_PER_EPOCH = 100  # points drawn of an epoch


def schedule_figure(phase: PhaseSettings, learning_curve: pd.DataFrame) -> go.Figure:
    """Learning rates of the model's parts, margin and inter-top-k penalty over the epochs of a phase.

    Parts of one rate share a line; the rate of the frontend's slower blocks is not drawn. Markers show the
    rate (before the parts' multipliers) and the margin that training had at the end of each epoch.

    Args:
        phase: settings.
        learning_curve: LEARNING_CURVE table of the phase.
    """
    import plotly.graph_objects as go

    steps = range(phase.epochs * STEPS_PER_EPOCH)
    epochs = [step / STEPS_PER_EPOCH for step in steps]
    schedule = PhaseSchedule(phase, STEPS_PER_EPOCH)
    margins = [schedule.margin(step) for step in steps]
    figure = go.Figure()
    for multiplier, parts in _parts_by_multiplier(phase).items():
        name = f"learning rate of {', '.join(parts)}"
        rates = [schedule.learning_rate(step, multiplier) for step in steps]
        figure.add_scatter(x=epochs, y=rates, mode="lines", name=name)
    figure.add_scatter(x=epochs, y=margins, mode="lines", name="margin", yaxis="y2", line={"dash": "dash"})
    if phase.margin.top_k:
        penalties = [schedule.top_k_penalty(step) for step in steps]
        name = "inter-top-k penalty"
        figure.add_scatter(x=epochs, y=penalties, mode="lines", name=name, yaxis="y2", line={"dash": "dot"})
    for metric, axis in (("learning_rate", "y"), ("margin", "y2")):
        ends = learning_curve[learning_curve["metric"] == metric]
        name = f"{metric.replace('_', ' ')} at the end of an epoch"
        figure.add_scatter(x=ends["epoch"], y=ends["value"], mode="markers", name=name, yaxis=axis)
    return figure.update_layout(
        xaxis={"title": "epoch"},
        yaxis={"title": "learning rate", "exponentformat": "e", "rangemode": "tozero"},
        yaxis2={"title": "radians", "overlaying": "y", "side": "right", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.1},
    )


def _parts_by_multiplier(phase: PhaseSettings) -> dict[float, list[str]]:
    multipliers = {"head": phase.lr_multipliers.head, "backend": phase.lr_multipliers.backend}
    if phase.frontend != "frozen":
        multipliers["frontend"] = phase.lr_multipliers.frontend
    parts: dict[float, list[str]] = {}
    for part, multiplier in multipliers.items():
        parts.setdefault(multiplier, []).append(part)
    return parts
