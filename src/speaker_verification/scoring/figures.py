"""DET curves, score histograms, reliability and identification, as Plotly figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.metrics import SortedTrials, sort_trials
from speaker_verification.scoring.open_set import RATES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_POINTS_PER_CURVE = 300
_BINS = 80
_PERCENT_TICKS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
_DASHES = ("dot", "dash", "solid", "dashdot", "longdash", "longdashdot")  # of the scorings, in order
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def det_figure(scores: pd.DataFrame, calibration: Calibration) -> go.Figure:
    """Detection error trade-off: false negatives over false positives, on normal-deviate axes.

    A colour for each trial list, a line style for each scoring.

    Source: A. Martin et al., "The DET Curve in Assessment of Detection Task Performance", Eurospeech 1997.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.

    Raises:
        DataError: a trial list holds one class only or a score that is not finite.
    """
    import plotly.graph_objects as go
    from scipy.special import ndtri

    figure = go.Figure()
    for place, (trial_list, rows) in enumerate(scores.groupby("trial_list", sort=False, observed=True)):
        labels = rows["label"].to_numpy()
        for number, (scoring, values) in enumerate(calibration.scores_by_scoring(rows).items()):
            trials = sort_trials(values, labels)
            fpr, fnr = _det_points(trials)
            figure.add_scatter(
                x=ndtri(fpr),
                y=ndtri(fnr),
                customdata=100 * np.stack([fpr, fnr], axis=1),
                hovertemplate="FPR %{customdata[0]:.3g} %, FNR %{customdata[1]:.3g} %",
                mode="lines",
                name=f"{trial_list} {scoring}, EER {trials.equal_error_rate()[0]:.2f} %",
                line={"dash": _DASHES[number % len(_DASHES)], "color": COLOURS[place % len(COLOURS)]},
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


def _det_points(trials: SortedTrials) -> tuple[np.ndarray, np.ndarray]:
    """False positive and false negative rates, both above 0 and below 1, evenly spaced along the curve."""
    from scipy.special import ndtri

    fnr, fpr = trials.rates()
    drawn = (fnr > 0) & (fnr < 1) & (fpr > 0) & (fpr < 1)
    fnr, fpr = fnr[drawn], fpr[drawn]
    if not len(fnr):
        return fpr, fnr
    along = ndtri(fnr) - ndtri(fpr)  # rises with the threshold
    points = np.searchsorted(along, np.linspace(along[0], along[-1], _POINTS_PER_CURVE))
    points = np.unique(points)
    return fpr[points], fnr[points]


def histogram_figure(scores: pd.DataFrame, calibration: Calibration) -> go.Figure:
    """Score densities of targets and non-targets: a row for each trial list, a column for each scoring.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.
    """
    from plotly.subplots import make_subplots

    lists = dict(iter(scores.groupby("trial_list", sort=False, observed=True)))
    figure = make_subplots(
        len(lists),
        len(calibration.scorings),
        row_titles=list(lists),
        column_titles=list(calibration.scorings),
        vertical_spacing=0.2 / len(lists),
    )
    for row, trials in enumerate(lists.values(), start=1):
        is_target = trials["label"].to_numpy() == 1
        for column, values in enumerate(calibration.scores_by_scoring(trials).values(), start=1):
            edges = np.histogram_bin_edges(values, bins=_BINS)
            for name, members, colour in (
                ("non-target", ~is_target, COLOURS[1]),
                ("target", is_target, COLOURS[0]),
            ):
                figure.add_bar(
                    x=(edges[:-1] + edges[1:]) / 2,
                    y=np.histogram(values[members], edges, density=True)[0],
                    name=name,
                    legendgroup=name,
                    showlegend=row == column == 1,
                    marker={"color": colour, "opacity": 0.6, "line_width": 0},
                    row=row,
                    col=column,
                )
    figure.update_layout(title="Scores", barmode="overlay", bargap=0, height=200 + 200 * len(lists))
    return figure


def reliability_figure(reliability: pd.DataFrame) -> go.Figure:
    """Empirical log-likelihood ratios over the given ones; those that mean what they say lie on the diagonal.

    A colour for each trial list, a line style for each scoring.

    Args:
        reliability: table of `breakdown.reliability`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    known = reliability.dropna(subset="empirical_llr")
    for place, (trial_list, of_list) in enumerate(known.groupby("trial_list", sort=False, observed=True)):
        for number, (scoring, points) in enumerate(of_list.groupby("scoring", sort=False)):
            figure.add_scatter(
                x=points["mean_llr"],
                y=points["empirical_llr"],
                customdata=points[["num_target", "num_nontarget"]],
                hovertemplate="%{customdata[0]} targets, %{customdata[1]} non-targets",
                mode="lines+markers",
                name=f"{trial_list} {scoring}",
                line={"dash": _DASHES[number % len(_DASHES)], "color": COLOURS[place % len(COLOURS)]},
            )
    ends = [known["mean_llr"].min(), known["mean_llr"].max()]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="perfect calibration", line={"color": "grey", "width": 1}
    )
    figure.update_layout(
        title="Reliability of the log-likelihood ratios",
        height=600,
        xaxis={"title": "log-likelihood ratio, nats"},
        yaxis={"title": "empirical log-likelihood ratio, nats"},
    )
    return figure


def open_set_figure(rates: pd.DataFrame) -> go.Figure:
    """Error rates of open-set identification over the threshold, dotted the ends of their intervals.

    Args:
        rates: table of `open_set.tabulate_rates`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, name in zip(COLOURS, RATES, strict=False):
        for column, dash in ((name, "solid"), (f"{name}_low", "dot"), (f"{name}_high", "dot")):
            figure.add_scatter(
                x=rates["threshold"],
                y=rates[column],
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=column == name,
                line={"dash": dash, "color": colour},
            )
    figure.update_layout(
        title="Open-set identification, half of the speakers enrolled",
        height=500,
        xaxis={"title": "threshold on the log-likelihood ratio, nats"},
        yaxis={"title": "%"},
    )
    return figure
