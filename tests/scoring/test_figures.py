from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from speaker_verification.scoring.breakdown import reliability
from speaker_verification.scoring.figures import (
    det_figure,
    histogram_figure,
    open_set_figure,
    reliability_figure,
)
from speaker_verification.scoring.open_set import OpenSetRates, Rate, tabulate_rates
from tests.support.scores import calibration, scores_of


def gaussian_scores(num_trials: int, distance: float) -> pd.DataFrame:
    """Scores of two normal classes of unit deviation: their DET curve is the line y = -x - distance."""
    half = num_trials // 2
    quantiles = np.array([NormalDist().inv_cdf((place + 0.5) / half) for place in range(half)])
    llr = np.concatenate([quantiles, quantiles + distance])
    label = np.repeat([0, 1], half)
    return scores_of(llr, label)


def test_det_curve_of_two_normal_classes_is_a_straight_line() -> None:
    figure = det_figure(gaussian_scores(num_trials=8000, distance=2.0), calibration())
    assert len(figure.data) == 3
    x, y = np.array(figure.data[0].x), np.array(figure.data[0].y)
    assert 200 < len(x) <= 300  # thinned from some thousands
    inner = (np.abs(x) < 2.5) & (np.abs(y) < 2.5)
    assert inner.sum() > 100
    np.testing.assert_allclose(y[inner], -x[inner] - 2.0, atol=0.02)
    assert "EER 15.8" in figure.data[0].name  # the normal distribution's mass beyond 1: 15.87 %


def test_det_axes_are_labelled_in_percent() -> None:
    axis = det_figure(gaussian_scores(num_trials=100, distance=2.0), calibration()).layout.xaxis
    one_percent = list(axis.ticktext).index("1")
    assert axis.tickvals[one_percent] == pytest.approx(NormalDist().inv_cdf(0.01))


def test_det_curve_of_separated_classes_is_empty() -> None:
    figure = det_figure(gaussian_scores(num_trials=20, distance=20.0), calibration())
    assert [len(curve.x) for curve in figure.data] == [0, 0, 0]


def test_histograms_are_densities_of_either_class() -> None:
    scores = gaussian_scores(num_trials=8000, distance=4.0)
    figure = histogram_figure(pd.concat([scores, scores.assign(trial_list="vox1_e")]), calibration())
    assert len(figure.data) == 2 * 3 * 2
    assert [trace.name for trace in figure.data if trace.showlegend] == ["non-target", "target"]
    for trace in figure.data:
        x, density = np.array(trace.x), np.array(trace.y)
        assert (density * (x[1] - x[0])).sum() == pytest.approx(1.0)
    nontarget, target = (figure.data[place] for place in (2, 3))  # of AS-norm
    assert np.average(nontarget.x, weights=nontarget.y) == pytest.approx(0.0, abs=0.05)
    assert np.average(target.x, weights=target.y) == pytest.approx(4.0, abs=0.05)


def test_reliable_ratios_lie_on_the_diagonal() -> None:
    # Two normal classes of unit deviation around -1 and 1: the log-likelihood ratio is twice the score.
    scores = gaussian_scores(num_trials=20_000, distance=2.0)
    honest = scores.assign(qmf=2 * (scores["llr"] - 1))
    figure = reliability_figure(reliability(honest, calibration()))
    curve = next(trace for trace in figure.data if trace.name == "vox1_o qmf")
    inner = np.abs(np.array(curve.x)) < 4
    np.testing.assert_allclose(np.array(curve.y)[inner], np.array(curve.x)[inner], atol=0.15)
    diagonal = figure.data[-1]
    assert list(diagonal.x) == list(diagonal.y)


def test_identification_is_drawn_with_the_ends_of_its_intervals() -> None:
    rates = Rate(np.array([0.5, 0.25]), np.array([0.4, 0.2]), np.array([0.6, 0.3]))
    figure = open_set_figure(tabulate_rates(OpenSetRates(np.array([1.0, 2.0]), rates, rates, rates)))
    assert [trace.name for trace in figure.data[::3]] == ["false_alarm", "miss", "misidentification"]
    for trace, percent in zip(figure.data, [[50, 25], [40, 20], [60, 30]] * 3, strict=True):
        np.testing.assert_array_equal(trace.x, [1.0, 2.0])
        np.testing.assert_allclose(trace.y, percent)
    assert not any(len(trace.x) for trace in open_set_figure(tabulate_rates(None)).data)
