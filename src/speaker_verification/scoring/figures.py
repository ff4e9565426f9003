"""Figures of error rates and of training, as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from speaker_verification.scoring.metrics import equal_error_rate, error_rates
from speaker_verification.scoring.summary import SCORINGS

if TYPE_CHECKING:
    import plotly.graph_objects as go

LOSS = "loss"
VALIDATION_EER = "validation.eer"  # %

_POINTS_PER_CURVE = 300
_PERCENT_TICKS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
_LINES = {"cosine": "dot", "as_norm": "dash", "qmf": "solid"}
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def det_figure(scores: pd.DataFrame) -> go.Figure:
    """Detection error trade-off: false negatives over false positives, on normal-deviate axes.

    A colour for each trial list, a line style for each scoring.

    Source: A. Martin et al., "The DET Curve in Assessment of Detection Task Performance", Eurospeech 1997.

    Args:
        scores: table of the SCORES schema.

    Raises:
        DataError: a trial list holds one class only or a score that is not finite.
    """
    import plotly.graph_objects as go
    from scipy.special import ndtri

    figure = go.Figure()
    for place, (trial_list, rows) in enumerate(scores.groupby("trial_list", sort=False, observed=True)):
        labels = rows["label"].to_numpy()
        for scoring in SCORINGS:
            values = rows["llr" if scoring == "qmf" else scoring].to_numpy()  # same curve, no rounding to 1
            fpr, fnr = _det_points(values, labels)
            figure.add_scatter(
                x=ndtri(fpr),
                y=ndtri(fnr),
                customdata=100 * np.stack([fpr, fnr], axis=1),
                hovertemplate="FPR %{customdata[0]:.3g} %, FNR %{customdata[1]:.3g} %",
                mode="lines",
                name=f"{trial_list} {scoring}, EER {equal_error_rate(values, labels)[0]:.2f} %",
                line={"dash": _LINES[scoring], "color": _COLOURS[place % len(_COLOURS)]},
            )
    axis = {
        "tickvals": ndtri(np.array(_PERCENT_TICKS) / 100),
        "ticktext": [f"{tick:g}" for tick in _PERCENT_TICKS],
    }
    figure.update_layout(
        title="Detection error trade-off",
        height=600,
        xaxis={"title": "false positives, %", **axis},
        yaxis={"title": "false negatives, %", "scaleanchor": "x", **axis},
    )
    return figure


def _det_points(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positive and false negative rates, both above 0 and below 1, evenly spaced along the curve."""
    from scipy.special import ndtri

    fnr, fpr, _ = error_rates(values, labels)
    drawn = (fnr > 0) & (fnr < 1) & (fpr > 0) & (fpr < 1)
    fnr, fpr = fnr[drawn], fpr[drawn]
    if not len(fnr):
        return fpr, fnr
    along = ndtri(fnr) - ndtri(fpr)  # rises with the threshold
    points = np.searchsorted(along, np.linspace(along[0], along[-1], _POINTS_PER_CURVE))
    points = np.unique(points)
    return fpr[points], fnr[points]


def learning_curve_figure(curves: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Loss and validation EER over the epochs of all phases, one phase after the other.

    A phase of no epochs has an error rate but no loss.

    Args:
        curves: phase name to table of the LEARNING_CURVE schema, in the order of training.
    """
    from plotly.subplots import make_subplots

    panels = {LOSS: "loss", VALIDATION_EER: "validation EER, %"}
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    first_epoch = 0
    for place, (phase, curve) in enumerate(curves.items()):
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
                line={"color": _COLOURS[place % len(_COLOURS)]},
                row=row,
                col=1,
            )
            figure.update_yaxes(title=title, row=row, col=1)
        figure.add_vrect(
            x0=first_epoch,
            x1=last_epoch,
            fillcolor=_COLOURS[place % len(_COLOURS)],
            opacity=0.08,
            line_width=0,
            annotation_text=phase,
            annotation_position="top left",
            row=1,
            col=1,
        )
        first_epoch = last_epoch
    figure.update_xaxes(title="epoch", row=len(panels), col=1)
    figure.update_layout(title="Learning curves")
    return figure
