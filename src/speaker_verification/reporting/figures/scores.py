"""DET curves, score histograms, reliability, error rates by group and identification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from speaker_verification.reporting import theme
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.open_set import RATES
from speaker_verification.scoring.summary import Metrics

if TYPE_CHECKING:
    import plotly.graph_objects as go

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99, 99.9)  # %
LEAST_SPAN = (1.0, 20.0)  # % that every DET panel shows
TICKS_ON_AN_AXIS = 12  # at most
PANELS_IN_A_ROW = 3
PANEL_SIZE = 330  # pixels
GROUP_PIXELS = 24
RATE_NAMES = ("False alarms", "Misses", "Misidentifications")
TARGET, NONTARGET = theme.COLOURS[0], theme.COLOURS[1]


def det_figure(
    points: pd.DataFrame,
    metrics: Metrics,
    calibration: Calibration,
    trial_lists: Sequence[str] | None = None,
) -> go.Figure:
    """Detection error trade-off on normal-deviate axes: a square panel for each trial list.

    A line for each scoring. Circles mark the equal error rate, other symbols the decisions at the calibrated
    threshold of each operating point; what lies beyond the axes is marked at their end.

    Source: A. Martin et al., "The DET Curve in Assessment of Detection Task Performance", Eurospeech 1997.

    Args:
        points: table of `scoring.curves.det_points`.
        metrics: metrics of the same lists and scorings.
        calibration: calibration of the scores, for its operating points.
        trial_lists: lists to draw, on the axes that serve all; None: all.
    """
    from plotly.subplots import make_subplots

    lists = list(metrics if trial_lists is None else trial_lists)
    columns = min(PANELS_IN_A_ROW, len(lists))
    rows = -(-len(lists) // columns)
    titles = [theme.plain(trial_list) for trial_list in lists]
    spacing = {"horizontal_spacing": 0.24 / columns, "vertical_spacing": 0.24 / rows}
    figure = make_subplots(rows, columns, subplot_titles=titles if len(lists) > 1 else None, **spacing)
    worst = max(values["eer"] for scorings in metrics.values() for values in scorings.values())
    low, high = det_span(points, worst)
    axis = det_axis(low, high)
    for place, trial_list in enumerate(lists):
        row, column = place // columns + 1, place % columns + 1
        drawn = _det_panel(points, trial_list, metrics[trial_list], calibration, (low, high))
        for trace in drawn:
            figure.add_trace(trace.update(showlegend=trace.showlegend and not place), row=row, col=column)
        figure.update_xaxes(title="False acceptances (%)", **axis, row=row, col=column)
        anchor = figure.get_subplot(row, column).yaxis.anchor
        figure.update_yaxes(title="Misses (%)", scaleanchor=anchor, **axis, row=row, col=column)
    best = [
        f"{trial_list} {min(values['eer'] for values in metrics[trial_list].values()):.2f} %"
        for trial_list in lists
    ]
    summary = (
        "Misses against false acceptances over all thresholds, a line for each scoring; nearer to the lower "
        f"left is better. Lowest equal error rates: {', '.join(best)}."
    )
    theme.finish(figure, "Detection error trade-off", summary, height=PANEL_SIZE * rows + 130)
    return figure.update_layout(legend_y=-64 / (PANEL_SIZE * rows))


def _det_panel(
    points: pd.DataFrame,
    trial_list: str,
    scorings: Mapping[str, Mapping[str, Any]],
    calibration: Calibration,
    span: tuple[float, float],
) -> Iterator[Any]:
    """Curve and marks of each scoring of a trial list."""
    import plotly.graph_objects as go
    from scipy.special import ndtri

    diagonal = ndtri(np.array(span) / 100)
    yield go.Scatter(
        x=diagonal,
        y=diagonal,
        mode="lines",
        name="equal rates",
        showlegend=False,
        hoverinfo="skip",
        line={"color": theme.GRID, "width": 1},
    )
    of_list = points[points["trial_list"] == trial_list]
    for number, (scoring, values) in enumerate(scorings.items()):
        shared = {"legendgroup": scoring, "name": theme.plain(scoring)}
        yield det_line(of_list[of_list["scoring"] == scoring], number, showlegend=True, **shared)
        marks = _marks(values, calibration.operating_points)
        at = np.array([rates for _, rates in marks.values()])
        x, y = ndtri(np.clip(at, *span).T / 100)
        yield go.Scatter(
            x=x,
            y=y,
            customdata=at,
            text=list(marks),
            hovertemplate="%{text}: false acceptances %{customdata[0]:.3g} %, misses %{customdata[1]:.3g} %",
            mode="markers",
            showlegend=False,
            cliponaxis=False,
            marker={
                "symbol": [symbol for symbol, _ in marks.values()],
                "size": 9,
                "color": theme.colour(number),
            },
            **shared,
        )


def det_line(points: pd.DataFrame, place: int, **options: Any) -> go.Scatter:
    """Line of a DET curve on normal-deviate axes.

    Args:
        points: columns fpr and fnr in %.
        place: place of its colour and style, from 0.
        **options: further ones of the trace.
    """
    import plotly.graph_objects as go
    from scipy.special import ndtri

    rates = points[["fpr", "fnr"]].to_numpy()
    x, y = ndtri(rates.T / 100)
    return go.Scatter(
        x=x,
        y=y,
        customdata=rates,
        hovertemplate="false acceptances %{customdata[0]:.3g} %, misses %{customdata[1]:.3g} %",
        mode="lines",
        line=theme.line(place),
        **options,
    )


def _marks(
    values: Mapping[str, Any], points: Sequence[OperatingPoint]
) -> dict[str, tuple[str, tuple[float, float]]]:
    """Symbol, and false acceptances and misses in %, of the EER and of each operating point."""
    symbols = ("diamond", "square", "triangle-up", "cross", "star", "x")
    marks = {"EER": ("circle", (values["eer"], values["eer"]))}
    for place, point in enumerate(points):
        if f"act_fpr_{point.name}" in values:
            rates = values[f"act_fpr_{point.name}"], values[f"act_fnr_{point.name}"]
            marks[f"decisions at P_target {point.p_target:g}"] = (symbols[place % len(symbols)], rates)
    return marks


def det_span(points: pd.DataFrame, worst_eer: float) -> tuple[float, float]:
    """Lowest and highest rate in % of a DET panel's axes, both ticks.

    Args:
        points: columns fpr and fnr in %, of all its curves.
        worst_eer: highest of their equal error rates in %.
    """
    seen = points[["fpr", "fnr"]].to_numpy()
    least = float(seen.min()) if seen.size else LEAST_SPAN[0]
    low = max((tick for tick in TICKS if tick <= least), default=TICKS[0])
    high = min((tick for tick in TICKS if tick >= 4 * worst_eer), default=TICKS[-1])
    return min(low, LEAST_SPAN[0]), max(high, LEAST_SPAN[1])


def det_axis(low: float, high: float) -> dict[str, Any]:
    """Normal-deviate axis between two rates in %."""
    from scipy.special import ndtri

    ticks = _spread_ticks(low, high)
    return {
        "tickvals": ndtri(np.array(ticks) / 100),
        "ticktext": [f"{tick:g}" for tick in ticks],
        "range": ndtri(np.array([low, high]) / 100).tolist(),
        "constrain": "domain",
        "zeroline": False,
        "tickangle": 0,
    }


def _spread_ticks(low: float, high: float) -> list[float]:
    """Ticks from low to high that stand far enough from one another to be read."""
    from scipy.special import ndtri

    least = (ndtri(high / 100) - ndtri(low / 100)) / TICKS_ON_AN_AXIS
    ticks: list[float] = []
    for tick in TICKS:
        if low <= tick <= high and (not ticks or ndtri(tick / 100) - ndtri(ticks[-1] / 100) >= least):
            ticks.append(tick)
    return ticks


def histogram_figure(histograms: pd.DataFrame, metrics: Metrics, calibration: Calibration) -> go.Figure:
    """Score densities of targets and non-targets: a row for each trial list, a column for each scoring.

    Lines mark the thresholds of the equal error rate and of the calibrated operating points.

    Args:
        histograms: table of `scoring.curves.score_histograms`.
        metrics: metrics of the same lists and scorings; further ones are not drawn.
        calibration: calibration of the scores.
    """
    from plotly.subplots import make_subplots

    present = histograms[["trial_list", "scoring"]].drop_duplicates()
    lists, scorings = (list(dict.fromkeys(present[name])) for name in present)
    figure = make_subplots(
        len(lists),
        len(scorings),
        row_titles=[theme.plain(name) for name in lists] if len(lists) > 1 else None,
        column_titles=[theme.plain(name) for name in scorings] if len(scorings) > 1 else None,
        vertical_spacing=0.28 / len(lists),
        horizontal_spacing=0.2 / len(scorings),
    )
    for trial_list, scoring in present.itertuples(index=False, name=None):
        of_both = (histograms["trial_list"] == trial_list) & (histograms["scoring"] == scoring)
        bins = histograms[of_both]
        row, column = lists.index(trial_list) + 1, scorings.index(scoring) + 1
        thresholds = _thresholds(metrics[trial_list][scoring], scoring, calibration)
        for trace in _histogram_panel(bins, thresholds):
            trace.update(showlegend=row == column == 1)
            figure.add_trace(trace, row=row, col=column)
        unit = "Log-likelihood ratio (nats)" if calibration.scorings[scoring].is_llr else "Score (no unit)"
        figure.update_xaxes(title=unit, row=row, col=column)
        figure.update_yaxes(title="Density (per unit)", row=row, col=column)
    summary = (
        "Densities of the scores of targets and of non-targets, which overlap where errors come from, with "
        "the thresholds as vertical lines."
    )
    theme.finish(figure, "Scores of targets and non-targets", summary, height=130 + 210 * len(lists))
    return figure.update_layout(barmode="overlay", bargap=0, legend_y=-64 / (210 * len(lists)))


def _thresholds(values: Mapping[str, Any], scoring: str, calibration: Calibration) -> dict[str, float]:
    """Thresholds of a scoring by their names in the legend; those that no score reaches are left out."""
    thresholds = {"threshold of the EER": values["threshold_eer"]}
    for point in calibration.operating_points:
        if scoring not in calibration.unreachable(point):
            affine = calibration.scorings[scoring].affine
            thresholds[f"threshold at P_target {point.p_target:g}"] = affine.score(point.threshold)
    return thresholds


def _histogram_panel(bins: pd.DataFrame, thresholds: Mapping[str, float]) -> Iterator[Any]:
    import plotly.graph_objects as go

    centres = (bins["score_from"] + bins["score_to"]) / 2
    for name, column, colour in (
        ("non-targets", "nontarget", NONTARGET),
        ("targets", "target", TARGET),
    ):
        yield go.Bar(
            x=centres,
            y=bins[column],
            name=name,
            legendgroup=name,
            hovertemplate="%{x:.3g}: density %{y:.3g}",
            marker={"color": colour, "opacity": 0.55, "line_width": 0},
        )
    top = float(bins[["target", "nontarget"]].to_numpy().max())
    for dash, (name, threshold) in zip(theme.DASHES, thresholds.items(), strict=False):
        yield go.Scatter(
            x=[threshold, threshold],
            y=[0, top],
            mode="lines",
            name=name,
            legendgroup=name,
            hovertemplate=f"{name}: %{{x:.4g}}",
            line={"color": theme.INK, "dash": dash, "width": 1.5},
        )


def reliability_figure(reliability: pd.DataFrame) -> go.Figure:
    """Observed log-likelihood ratios over the given ones; those that mean what they say lie on the diagonal.

    A colour for each trial list, a line style for each scoring.

    Args:
        reliability: table of `scoring.breakdown.reliability`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    known = reliability.dropna(subset="empirical_llr")
    lists = list(dict.fromkeys(known["trial_list"]))
    for place, trial_list in enumerate(lists):
        of_list = known[known["trial_list"] == trial_list]
        for number, (scoring, points) in enumerate(of_list.groupby("scoring", sort=False)):
            name = scoring if len(lists) == 1 else f"{trial_list} {scoring}"
            figure.add_scatter(
                x=points["mean_llr"],
                y=points["empirical_llr"],
                customdata=points[["num_target", "num_nontarget"]],
                hovertemplate="given %{x:.2f}, observed %{y:.2f}: %{customdata[0]} targets, "
                "%{customdata[1]} non-targets",
                mode="lines+markers",
                name=theme.plain(str(name)),
                line=theme.line(number) | {"color": theme.colour(number if len(lists) == 1 else place)},
            )
    ends = [known["mean_llr"].min(), known["mean_llr"].max()] if len(known) else [-1.0, 1.0]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="perfect calibration", line={"color": theme.INK, "width": 1}
    )
    figure.update_layout(
        xaxis={"title": "Log-likelihood ratio given (nats)"},
        yaxis={"title": "Log-likelihood ratio observed (nats)"},
    )
    summary = (
        "Log-likelihood ratios that the labels show over those that were given; calibrated ones lie on the "
        "diagonal, points below it promise too much."
    )
    return theme.finish(figure, "Reliability of the log-likelihood ratios", summary, height=460)


def group_figure(rates: pd.DataFrame, by: str) -> go.Figure:
    """Equal error rates by group of trials, a symbol for each trial list.

    Args:
        rates: rows of `scoring.breakdown.rates_by_group` of one scoring.
        by: grouping, such as duration.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = rates[(rates["by"] == by) & rates["eer"].notna()]
    groups = list(dict.fromkeys(rows["group"]))
    for number, (trial_list, points) in enumerate(rows.groupby("trial_list", sort=False, observed=True)):
        figure.add_scatter(
            x=points["eer"],
            y=[theme.plain(group) for group in points["group"]],
            customdata=points[["num_target", "num_nontarget", "fnr", "fpr"]],
            hovertemplate="%{y}: EER %{x:.2f} %; %{customdata[0]} targets, %{customdata[1]} non-targets; "
            "at the list's threshold misses %{customdata[2]:.2f} %, false acceptances %{customdata[3]:.2f} %",
            mode="markers",
            name=theme.plain(str(trial_list)),
            marker={
                "color": theme.colour(number),
                "size": 10,
                "symbol": ("circle", "diamond", "square", "triangle-up", "cross", "x")[number % 6],
            },
        )
    figure.update_layout(
        xaxis={"title": "EER at the group's own threshold (%)", "rangemode": "tozero"},
        yaxis={
            "title": f"{by.capitalize()} ({'shorter side' if by == 'duration' else 'both sides'})",
            "categoryorder": "array",
            "categoryarray": [theme.plain(group) for group in reversed(groups)],
        },
    )
    summary = f"Equal error rates of trials grouped by {by}, in {len(groups)} groups."
    height = 190 + GROUP_PIXELS * max(len(groups), 6)
    theme.finish(figure, f"Equal error rate by {by}", summary, height=height)
    return figure.update_layout(legend_y=-64 / (height - 110), showlegend=True)


def open_set_figure(rates: pd.DataFrame) -> go.Figure:
    """Error rates of open-set identification over the threshold, with their intervals as bands.

    Args:
        rates: table of `scoring.open_set.tabulate_rates`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (name, title) in enumerate(zip(RATES, RATE_NAMES, strict=True)):
        shared = {"x": rates["threshold"], "mode": "lines", "legendgroup": name, "name": title}
        edge = {"showlegend": False, "hoverinfo": "skip", "line": {"width": 0}}
        figure.add_scatter(
            y=rates[name], line=theme.line(place), hovertemplate="%{y:.2f} % at %{x:.2f}", **shared
        )
        figure.add_scatter(y=rates[f"{name}_low"], **edge, **shared)
        figure.add_scatter(
            y=rates[f"{name}_high"],
            fill="tonexty",
            fillcolor=theme.translucent(theme.colour(place), 0.15),
            **edge,
            **shared,
        )
    figure.update_layout(
        xaxis={"title": "Threshold on the log-likelihood ratio (nats)"},
        yaxis={"title": "Share of the searches (%)", "rangemode": "tozero"},
    )
    summary = (
        "False alarms fall and misses rise with the threshold; bands are 95 % intervals resampled by speaker."
    )
    return theme.finish(figure, "Open-set identification, half of the speakers enrolled", summary)
