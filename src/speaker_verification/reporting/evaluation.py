"""Report of an evaluation: a page with its error rates, curves and circumstances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.reporting import page, theme
from speaker_verification.reporting.figures.layers import layer_time_figure, layer_weight_figure
from speaker_verification.reporting.figures.scores import (
    det_figure,
    group_figure,
    histogram_figure,
    open_set_figure,
    reliability_figure,
)
from speaker_verification.reporting.figures.training import learning_curve_figure
from speaker_verification.reporting.published import published_on
from speaker_verification.reporting.verdict import Verdict
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.summary import Metrics

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_BYTES = 8_000_000
PLAYER_BYTES = 2_300_000  # for sound; the drawing program takes 4.9 MB
SHOWN_TRIALS = 50  # of each class and list
SHOWN_DIFFERENCES = 12  # unfolded


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of an evaluation, as the pipelines leave them.

    Attributes:
        verdict: circumstances.
        metrics: error rates by trial list and scoring.
        calibration: calibration of the scores.
        det_points: table of `scoring.curves.det_points`.
        histogram_bins: table of `scoring.curves.score_histograms`.
        reliability: table of `scoring.breakdown.reliability`.
        rates_by_group: table of `scoring.breakdown.rates_by_group`.
        worst_trials: table of `scoring.breakdown.worst_trials`.
        open_set_rates: table of `scoring.open_set.tabulate_rates`; empty where nothing was searched.
        layer_weights: means of `layer_weights.LayerWeights`; empty where they are not known.
        layer_weights_over_time: the same over time.
        learning_curves: LEARNING_CURVE tables by phase; empty where the training is not known.
        players: addresses of recordings, by utterance.
    """

    verdict: Verdict
    metrics: Metrics
    calibration: Calibration
    det_points: pd.DataFrame
    histogram_bins: pd.DataFrame
    reliability: pd.DataFrame
    rates_by_group: pd.DataFrame
    worst_trials: pd.DataFrame
    open_set_rates: pd.DataFrame
    layer_weights: pd.DataFrame
    layer_weights_over_time: pd.DataFrame
    learning_curves: Mapping[str, pd.DataFrame]
    players: Mapping[str, str] = field(default_factory=dict)


class GroupedRates(NamedTuple):
    """Error rates by one grouping, as a figure and as rows of all trial lists."""

    by: str
    figure: go.Figure | None
    rows: list[dict[str, Any]]


class WorstTrials(NamedTuple):
    """Worst trials of one class of a trial list; `num_more` further ones are in the saved table alone."""

    trial_list: str
    kind: str
    rows: list[dict[str, Any]]
    num_more: int


def render_evaluation(evaluation: Evaluation) -> str:
    """The page, as HTML.

    Raises:
        DataError: the page would exceed MAX_BYTES.
    """
    verdict, metrics = evaluation.verdict, evaluation.metrics
    text = page.render(
        "evaluation.html.j2",
        verdict=verdict,
        metrics=metrics,
        lists={name: next(iter(scorings.values())) for name, scorings in metrics.items()},
        points=evaluation.calibration.operating_points,
        cautions=list(verdict.cautions()),
        remarks=_remarks(metrics),
        published=published_on(metrics),
        published_lists=[name for name in metrics if published_on([name])],
        det=list(_by_list(evaluation, _det_of)),
        histograms=list(_by_list(evaluation, _histogram_of(verdict.llr))),
        other_histograms=[
            figure
            for scoring in evaluation.calibration.scorings
            if scoring != verdict.llr
            for figure in _by_list(evaluation, _histogram_of(scoring), scoring)
        ],
        reliability=list(_by_list(evaluation, _reliability_of)),
        groups=list(_groups(evaluation)),
        open_set=open_set_figure(evaluation.open_set_rates) if len(evaluation.open_set_rates) else None,
        worst=_worst(evaluation.worst_trials),
        sounds={utterance_id: place for place, utterance_id in enumerate(evaluation.players)},
        addresses=list(evaluation.players.values()),  # each once, whatever the number of its trials
        learning=_learning(evaluation.learning_curves),
        layers=layer_weight_figure(evaluation.layer_weights) if len(evaluation.layer_weights) else None,
        layers_over_time=list(_over_time(evaluation.layer_weights_over_time)),
        shown_differences=SHOWN_DIFFERENCES,
    )
    if (size := len(text.encode())) > MAX_BYTES:
        raise DataError(
            f"the report would take {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g}: lower report.players "
            "or report.worst_trials, or evaluate fewer trial lists at a time"
        )
    return text


def _by_list(
    evaluation: Evaluation, draw: Callable[[Evaluation, str], go.Figure], name: str = ""
) -> Iterator[go.Figure]:
    """A figure for each trial list, titled by it and, where one is given, by another name."""
    for trial_list in evaluation.metrics:
        title = f"{trial_list}, {name}" if name else trial_list
        yield draw(evaluation, trial_list).update_layout(title_text=theme.plain(title))


def _rows_of(table: pd.DataFrame, trial_list: str) -> pd.DataFrame:
    return table[table["trial_list"] == trial_list]


def _det_of(evaluation: Evaluation, trial_list: str) -> go.Figure:
    return det_figure(evaluation.det_points, evaluation.metrics, evaluation.calibration, [trial_list])


def _histogram_of(scoring: str) -> Callable[[Evaluation, str], go.Figure]:
    def draw(evaluation: Evaluation, trial_list: str) -> go.Figure:
        bins = _rows_of(evaluation.histogram_bins, trial_list)
        return histogram_figure(
            bins[bins["scoring"] == scoring], evaluation.metrics, evaluation.calibration
        ).update_layout(height=330)

    return draw


def _reliability_of(evaluation: Evaluation, trial_list: str) -> go.Figure:
    return reliability_figure(_rows_of(evaluation.reliability, trial_list))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by column name."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def _remarks(metrics: Metrics) -> list[str]:
    """Remarks on operating points, on missing intervals and on labels, each once."""
    remarks = []
    for trial_list, scorings in metrics.items():
        for values in scorings.values():
            remarks += [f"{value}." for name, value in values.items() if name.startswith("remark_")]
            if reason := values.get("no_interval"):
                remarks.append(f"{trial_list}: no interval: {reason}.")
            if contradicting := values.get("num_contradicting"):
                remarks.append(
                    f"{trial_list}: {contradicting} labels contradict the speakers of their trials."
                )
    return list(dict.fromkeys(remarks))


def _groups(evaluation: Evaluation) -> Iterator[GroupedRates]:
    rates = evaluation.rates_by_group
    rates = rates[rates["scoring"] == evaluation.verdict.llr]
    for by in rates["by"].unique():
        of_group = rates[rates["by"] == by]
        drawn = of_group["eer"].notna().any()
        figure = group_figure(rates, by) if drawn else None
        yield GroupedRates(by, figure, _records(of_group))


def _worst(trials: pd.DataFrame) -> dict[str, list[WorstTrials]]:
    """Both classes by trial list."""
    worst: dict[str, list[WorstTrials]] = {}
    for trial_list in map(str, trials["trial_list"].unique()):
        of_list = _rows_of(trials, trial_list)
        for label, kind in ((1, "targets"), (0, "non-targets")):
            of_class = of_list[of_list["label"] == label]
            rows = _records(of_class.head(SHOWN_TRIALS))
            worst.setdefault(trial_list, []).append(
                WorstTrials(trial_list, kind, rows, len(of_class) - len(rows))
            )
    return worst


def _learning(curves: Mapping[str, pd.DataFrame]) -> go.Figure | None:
    return learning_curve_figure(curves) if any(len(curve) for curve in curves.values()) else None


def _over_time(weights: pd.DataFrame) -> Iterator[go.Figure]:
    for sequence, utterance_id in weights[["sequence", "utterance_id"]].drop_duplicates().to_numpy():
        yield layer_time_figure(weights, sequence, utterance_id)
