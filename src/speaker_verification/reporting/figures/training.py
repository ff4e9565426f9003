"""Learning curves and schedules, as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from speaker_verification.reporting import theme
from speaker_verification.training.compression.settings import EXPECTED, SPARSITY, WANTED, CompressSettings
from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.phase_schedule import PhaseSchedule

if TYPE_CHECKING:
    import plotly.graph_objects as go

LOSS = "loss"
VALIDATION_EER = "validation.eer"  # %
STEPS_PER_EPOCH = 100  # points drawn of an epoch


def learning_curve_figure(curves: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Loss and validation EER over the epochs of all phases, one phase after the other.

    A phase of no epochs has an error rate but no loss; a phase with an empty table is left out.

    Args:
        curves: phase name to table of the LEARNING_CURVE schema, in the order of training.
    """
    from plotly.subplots import make_subplots

    panels = {LOSS: "Loss (nats)", VALIDATION_EER: "Validation EER (%)"}
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    last_rates = []
    first_epoch = 0
    for place, (phase, curve) in enumerate(curves.items()):
        if curve.empty:
            continue
        last_epoch = first_epoch + int(curve["epoch"].max())
        for row, (metric, title) in enumerate(panels.items(), start=1):
            points = curve[curve["metric"] == metric].sort_values("epoch")
            figure.add_scatter(
                x=first_epoch + points["epoch"],
                y=points["value"],
                mode="lines+markers",
                name=phase,
                legendgroup=phase,
                showlegend=row == 1,
                hovertemplate="%{y:.3g} after epoch %{x}",
                line=theme.line(place),
                row=row,
                col=1,
            )
            figure.update_yaxes(title=title, row=row, col=1)
        figure.add_vrect(
            x0=first_epoch,
            x1=last_epoch,
            fillcolor=theme.colour(place),
            opacity=0.08,
            line_width=0,
            annotation_text=phase,
            annotation_position="top left",
            row=1,
            col=1,
        )
        first_epoch = last_epoch
        if len(points):
            last_rates.append(f"{phase} {points['value'].iloc[-1]:.2f} %")
    figure.update_xaxes(title="Epoch (over all phases)", row=len(panels), col=1)
    summary = (
        "Loss, and error rate on held-out training speakers, over the epochs of one phase after the other. "
        f"Error rate at the end of each phase: {', '.join(last_rates) or 'not known'}."
    )
    theme.finish(figure, "Learning curves", summary, height=520)
    return figure.update_layout(legend_y=-0.16)


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
    figure.update_layout(
        xaxis={"title": "Epoch (of this phase)"},
        yaxis={"title": "Learning rate (per step)", "exponentformat": "e", "rangemode": "tozero"},
        yaxis2={
            "title": "Margin (radians)",
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
        },
        colorway=theme.COLOURS,
    )
    summary = f"Learning rates and margin as planned for {phase.epochs} epochs, and as they were after each."
    return theme.finish(figure, "Learning rate and margin", summary)


def compression_figure(compress: CompressSettings, learning_curve: pd.DataFrame) -> go.Figure:
    """Sparsity and validation EER over the epochs of a compression.

    Args:
        compress: settings.
        learning_curve: LEARNING_CURVE table of the compression.
    """
    from plotly.subplots import make_subplots

    panels = {
        "Sparsity (%)": {
            SPARSITY: "of the model that is kept",
            EXPECTED: "expected by the gates",
            WANTED: "wanted",
        },
        "Validation EER (%)": {VALIDATION_EER: "validation EER"},
    }
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, (title, metrics) in enumerate(panels.items(), start=1):
        for place, (metric, name) in enumerate(metrics.items()):
            points = learning_curve[learning_curve["metric"] == metric].sort_values("epoch")
            figure.add_scatter(
                x=points["epoch"],
                y=points["value"] * (100 if row == 1 else 1),
                mode="lines+markers",
                name=name,
                hovertemplate="%{y:.2f} % after epoch %{x}",
                line=theme.line(place if row == 1 else len(panels) + 1),
                row=row,
                col=1,
            )
        figure.update_yaxes(title=title, rangemode="tozero", row=row, col=1)
    if compress.recovery_epochs and compress.epochs:
        figure.add_vrect(
            x0=compress.epochs - compress.recovery_epochs,
            x1=compress.epochs,
            fillcolor=theme.colour(0),
            opacity=0.08,
            line_width=0,
            annotation_text="recovery",
            annotation_position="bottom left",
            row=1,
            col=1,
        )
    figure.update_xaxes(title="Epoch (of the compression)", row=len(panels), col=1)
    rates = learning_curve[learning_curve["metric"] == VALIDATION_EER].sort_values("epoch")["value"]
    ends = (
        f" It was {rates.iloc[0]:.2f} % before and {rates.iloc[-1]:.2f} % at the end." if len(rates) else ""
    )
    summary = (
        f"Share of the encoder's parameters that is removed, towards {100 * compress.target_sparsity:g} %, "
        f"and error rate on held-out training speakers.{ends}"
    )
    theme.finish(figure, "Compression", summary, height=520)
    return figure.update_layout(legend_y=-0.16)


def _parts_by_multiplier(phase: PhaseSettings) -> dict[float, list[str]]:
    multipliers = {"head": phase.lr_multipliers.head, "backend": phase.lr_multipliers.backend}
    if phase.frontend != "frozen" or phase.lora.rank:
        multipliers["frontend"] = phase.lr_multipliers.frontend
    parts: dict[float, list[str]] = {}
    for part, multiplier in multipliers.items():
        parts.setdefault(multiplier, []).append(part)
    return parts
