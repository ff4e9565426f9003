"""Figures of what a phase does, as Plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.schedules import margin, top_k_penalty

if TYPE_CHECKING:
    import plotly.graph_objects as go

STEPS_PER_EPOCH = 100  # drawn; the corpus decides how many there are


def schedule_figure(phase: PhaseSettings, learning_curve: pd.DataFrame) -> go.Figure:
    """Learning rates of the model's parts, margin and inter-top-k penalty over the epochs of a phase.

    Parts of one rate share a line; the rate of the frontend's slower blocks is not drawn. Markers show the
    rate (before the parts' multipliers) and the margin that training had at the end of each epoch.

    Args:
        phase: settings.
        learning_curve: table of the LEARNING_CURVE schema that the phase left.
    """
    import plotly.graph_objects as go

    steps = range(phase.epochs * STEPS_PER_EPOCH)
    epochs = [step / STEPS_PER_EPOCH for step in steps]
    rates = [phase.learning_rate_at(step, STEPS_PER_EPOCH) for step in steps]
    margins = [margin(step, STEPS_PER_EPOCH, phase.margin) for step in steps]
    figure = go.Figure()
    for factor, parts in _parts_by_multiplier(phase).items():
        name = f"learning rate of {', '.join(parts)}"
        figure.add_scatter(x=epochs, y=[factor * rate for rate in rates], mode="lines", name=name)
    figure.add_scatter(x=epochs, y=margins, mode="lines", name="margin", yaxis="y2", line={"dash": "dash"})
    if phase.margin.top_k:
        penalties = [top_k_penalty(target, phase.margin) for target in margins]
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
    factors = {"head": phase.lr_multipliers.head, "backend": phase.lr_multipliers.backend}
    if phase.frontend != "frozen":
        factors["frontend"] = phase.lr_multipliers.frontend
    parts: dict[float, list[str]] = {}
    for part, factor in factors.items():
        parts.setdefault(factor, []).append(part)
    return parts
