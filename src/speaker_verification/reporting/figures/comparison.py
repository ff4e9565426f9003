"""DET curves of several systems over each other, and the differences of their error rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from speaker_verification.reporting import theme
from speaker_verification.reporting.figures.scores import det_axis, det_line, det_span

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW_PIXELS = 30


class DetCurve(NamedTuple):
    """DET curve of a run: what `scoring.curves.det_curve` returns, and the equal error rate in %."""

    points: pd.DataFrame
    eer: float


def overlaid_det_figure(curves: Mapping[str, Sequence[DetCurve]], trial_list: str) -> go.Figure:
    """Detection error trade-off of several systems on one trial list, a line for each run.

    Circles mark the equal error rates.

    Args:
        curves: curve of each run, by system.
        trial_list: name of the list.
    """
    import plotly.graph_objects as go
    from scipy.special import ndtri

    figure = go.Figure()
    drawn = [curve for runs in curves.values() for curve in runs]
    span = det_span(pd.concat([curve.points for curve in drawn]), max(curve.eer for curve in drawn))
    for place, (system, runs) in enumerate(curves.items()):
        shared = {"name": theme.plain(system), "legendgroup": system}
        for number, curve in enumerate(runs):
            figure.add_trace(det_line(curve.points, place, showlegend=number == 0, **shared))
        eers = np.array([curve.eer for curve in runs])
        at = ndtri(np.clip(eers, *span) / 100)
        figure.add_scatter(
            x=at,
            y=at,
            customdata=eers,
            hovertemplate="EER %{customdata:.2f} %",
            mode="markers",
            showlegend=False,
            cliponaxis=False,
            marker={"size": 9, "color": theme.colour(place)},
            **shared,
        )
    axis = det_axis(*span)
    figure.update_xaxes(title="False acceptances (%)", **axis)
    figure.update_yaxes(title="Misses (%)", scaleanchor="x", **axis)
    summary = (
        f"Misses against false acceptances of {len(curves)} systems on {trial_list}, a line for each run; "
        "nearer to the lower left is better."
    )
    return theme.finish(figure, theme.plain(trial_list), summary, height=460)


def difference_figure(differences: pd.DataFrame) -> go.Figure:
    """Differences of equal error rates with their intervals, a row for each pair of systems and list.

    Args:
        differences: table of `comparison.tabulate_differences`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (pair, rows) in enumerate(differences.groupby(["first", "second"], sort=False)):
        first, second = map(str, pair)
        figure.add_scatter(
            x=rows["difference"],
            y=rows["trial_list"],
            orientation="h",  # the axis along which the points of a list stand apart
            error_x={
                "array": rows["high"] - rows["difference"],
                "arrayminus": rows["difference"] - rows["low"],
                "color": theme.colour(place),
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            marker={"size": 9, "color": theme.colour(place)},
            name=theme.plain(f"{second} against {first}"),
            hovertemplate="%{y}: %{x:.2f} points",
        )
    figure.add_vline(x=0, line={"color": theme.INK, "width": 1})
    figure.update_xaxes(title="Difference (percentage points)")
    figure.update_yaxes(title="Trial list (name)", autorange="reversed")
    figure.update_layout(scattermode="group")
    clear = int(differences["is_clear"].sum())
    summary = f"{clear} of {len(differences)} differences have intervals that leave out 0."
    height = 190 + ROW_PIXELS * len(differences)
    title = "Differences of equal error rates"
    return theme.finish(figure, title, summary, height=height).update_layout(showlegend=True)
