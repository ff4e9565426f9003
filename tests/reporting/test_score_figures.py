from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speaker_verification.reporting.figures.scores import (
    det_figure,
    group_figure,
    histogram_figure,
    open_set_figure,
    reliability_figure,
)
from speaker_verification.scoring.breakdown import reliability
from speaker_verification.scoring.curves import det_points, score_histograms
from speaker_verification.scoring.open_set import OpenSetRates, Rate, tabulate_rates
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import Metrics, compute_metrics
from tests.support.scores import calibration, scores_of, utterances_of

PROBIT = NormalDist().inv_cdf


def gaussian_scores(num_trials: int, distance: float, trial_list: str = "vox1_o") -> pd.DataFrame:
    """Scores of two normal classes of unit deviation: their DET curve is the line y = -x - distance."""
    half = num_trials // 2
    quantiles = np.array([PROBIT((place + 0.5) / half) for place in range(half)])
    llr = np.concatenate([quantiles, quantiles + distance])
    return scores_of(llr, np.repeat([0, 1], half), trial_list)


def metrics_of(scores: pd.DataFrame) -> Metrics:
    settings = ScoreSettings(bootstrap_resamples=0)
    return compute_metrics(scores, calibration(), utterances_of(scores), settings)


def det_of(scores: pd.DataFrame) -> Any:
    return det_figure(det_points(scores, calibration()), metrics_of(scores), calibration())


def histograms_of(scores: pd.DataFrame) -> Any:
    return histogram_figure(score_histograms(scores, calibration()), metrics_of(scores), calibration())


def test_det_curve_of_two_normal_classes_is_a_straight_line() -> None:
    figure = det_of(gaussian_scores(num_trials=8000, distance=2.0))
    curves = [trace for trace in figure.data if trace.mode == "lines" and trace.name in ("cosine", "qmf")]
    assert len(curves) == 2
    x, y = np.array(curves[0].x), np.array(curves[0].y)
    assert 200 < len(x) <= 300  # thinned from some thousands
    inner = (np.abs(x) < 2.5) & (np.abs(y) < 2.5)
    assert inner.sum() > 100
    np.testing.assert_allclose(y[inner], -x[inner] - 2.0, atol=0.02)
    (marks,) = [trace for trace in figure.data if trace.mode == "markers" and trace.name == "cosine"]
    assert marks.text[0] == "EER"
    # The normal distribution's mass beyond 1 is 15.87 %.
    np.testing.assert_allclose(marks.customdata[0], [15.87, 15.87], atol=0.02)
    assert (marks.x[0], marks.y[0]) == (marks.x[0], marks.x[0])


def test_decisions_are_marked_where_the_metrics_have_them() -> None:
    scores = gaussian_scores(num_trials=2000, distance=4.0)
    (marks,) = [t for t in det_of(scores).data if t.mode == "markers" and t.name == "qmf"]
    # The calibration takes the score for the ratio: at P_target 0.01 it accepts from log 99 = 4.595 on.
    rate = list(marks.text).index("decisions at P_target 0.01")
    false_acceptances, misses = marks.customdata[rate]
    assert misses == pytest.approx(100 * NormalDist().cdf(np.log(99) - 4.0), abs=0.2)
    assert false_acceptances == 0.0  # beyond the highest of 1,000 non-targets: at the axis' end
    figure = det_of(scores)
    assert marks.x[rate] == figure.layout.xaxis.range[0]


def test_det_axes_are_square_and_labelled_in_percent() -> None:
    layout = det_of(gaussian_scores(num_trials=100, distance=2.0)).layout
    one_percent = list(layout.xaxis.ticktext).index("1")
    assert layout.xaxis.tickvals[one_percent] == pytest.approx(PROBIT(0.01))
    assert layout.xaxis.range == layout.yaxis.range
    assert layout.yaxis.scaleanchor == "x"
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("False acceptances (%)", "Misses (%)")


def test_every_list_has_a_det_panel_and_the_legend_names_a_scoring_once() -> None:
    lists = ["vox1_o", "vox1_e", "vox1_h", "mine"]
    scores = pd.concat([gaussian_scores(60, 2.0, name) for name in lists], ignore_index=True)
    figure = det_of(scores)
    assert [note.text for note in figure.layout.annotations] == lists
    assert {(trace.xaxis, trace.yaxis) for trace in figure.data} == {
        ("x", "y"),
        ("x2", "y2"),
        ("x3", "y3"),
        ("x4", "y4"),
    }
    assert [trace.name for trace in figure.data if trace.showlegend] == ["cosine", "as_norm", "qmf"]
    assert figure.layout.yaxis3.scaleanchor == "x3"


def test_a_panel_drawn_alone_has_the_axes_of_all() -> None:
    scores = pd.concat(
        [gaussian_scores(60, 1.0, "hard"), gaussian_scores(2000, 5.0, "easy")], ignore_index=True
    )
    tables = det_points(scores, calibration()), metrics_of(scores), calibration()
    whole, alone = det_figure(*tables), det_figure(*tables, ["easy"])
    assert {trace.xaxis for trace in alone.data} == {"x"}
    assert alone.layout.xaxis.range == alone.layout.yaxis.range == whole.layout.xaxis2.range


def test_det_curve_of_separated_classes_is_empty_but_drawn() -> None:
    scores = gaussian_scores(num_trials=20, distance=20.0)
    assert not len(det_points(scores, calibration()))
    curves = [trace for trace in det_of(scores).data if trace.showlegend]
    assert [len(curve.x) for curve in curves] == [0, 0, 0]


def test_histograms_are_densities_of_either_class() -> None:
    scores = gaussian_scores(num_trials=8000, distance=4.0)
    figure = histograms_of(pd.concat([scores, scores.assign(trial_list="vox1_e")], ignore_index=True))
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 2 * 3 * 2
    assert [trace.name for trace in bars if trace.showlegend] == ["non-targets", "targets"]
    for trace in bars:
        x, density = np.array(trace.x), np.array(trace.y)
        assert (density * (x[1] - x[0])).sum() == pytest.approx(1.0)
    nontarget, target = bars[2:4]  # of AS-norm
    assert np.average(nontarget.x, weights=nontarget.y) == pytest.approx(0.0, abs=0.05)
    assert np.average(target.x, weights=target.y) == pytest.approx(4.0, abs=0.05)


def test_histograms_show_the_thresholds_that_scores_reach() -> None:
    scores = gaussian_scores(num_trials=2000, distance=4.0)
    lines = [trace for trace in histograms_of(scores).data if trace.type == "scatter"]
    at = {(trace.xaxis, trace.name): trace.x[0] for trace in lines}
    # A ratio of log 99 takes a cosine of 0.46: a tenth of it.
    assert at["x", "threshold at P_target 0.01"] == pytest.approx(np.log(99) / 10)
    assert at["x2", "threshold at P_target 0.01"] == pytest.approx(np.log(99))
    # A miss costs ten times as much: log(0.95 / (10 x 0.05)).
    assert at["x3", "threshold at P_target 0.05"] == pytest.approx(np.log(1.9))
    assert at["x3", "threshold of the EER"] == pytest.approx(2.0, abs=0.01)


def test_reliable_ratios_lie_on_the_diagonal() -> None:
    # Two normal classes of unit deviation around -1 and 1: the log-likelihood ratio is twice the score.
    scores = gaussian_scores(num_trials=20_000, distance=2.0)
    honest = scores.assign(qmf=2 * (scores["llr"] - 1))
    figure = reliability_figure(reliability(honest, calibration()))
    curve = next(trace for trace in figure.data if trace.name == "qmf")
    inner = np.abs(np.array(curve.x)) < 4
    np.testing.assert_allclose(np.array(curve.y)[inner], np.array(curve.x)[inner], atol=0.15)
    diagonal = figure.data[-1]
    assert list(diagonal.x) == list(diagonal.y)


def test_groups_stand_in_their_order_from_above_and_those_without_a_rate_are_left_out() -> None:
    rates = pd.DataFrame(
        {
            "trial_list": "vox1_o",
            "scoring": "qmf",
            "by": ["duration", "duration", "duration", "gender"],
            "group": ["under 2 s", "2 to 4 s", "from 4 s", "f"],
            "num_target": 40,
            "num_nontarget": 50,
            "eer": [5.0, np.nan, 3.0, 1.0],
            "fnr": 4.0,
            "fpr": 6.0,
        }
    )
    figure = group_figure(rates, "duration")
    (points,) = figure.data
    assert dict(zip(points.y, points.x, strict=True)) == {"under 2 s": 5.0, "from 4 s": 3.0}
    assert list(figure.layout.yaxis.categoryarray) == ["from 4 s", "under 2 s"]


def test_identification_is_drawn_with_bands_between_the_ends_of_its_intervals() -> None:
    rates = Rate(np.array([0.5, 0.25]), np.array([0.4, 0.2]), np.array([0.6, 0.3]))
    figure = open_set_figure(tabulate_rates(OpenSetRates(np.array([1.0, 2.0]), rates, rates, rates)))
    assert [trace.name for trace in figure.data[::3]] == ["False alarms", "Misses", "Misidentifications"]
    for trace, percent in zip(figure.data, [[50, 25], [40, 20], [60, 30]] * 3, strict=True):
        np.testing.assert_array_equal(trace.x, [1.0, 2.0])
        np.testing.assert_allclose(trace.y, percent)
    assert [trace.fill for trace in figure.data[:3]] == [None, None, "tonexty"]
    assert not any(len(trace.x) for trace in open_set_figure(tabulate_rates(None)).data)
