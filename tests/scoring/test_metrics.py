from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring import (
    OperatingPoint,
    actual_detection_cost,
    cllr,
    equal_error_rate,
    error_rates,
    min_cllr,
    min_detection_cost,
)

Trials = tuple[list[float], list[int]]


@st.composite
def short_lists(draw: st.DrawFn) -> Trials:
    """Few trials with few distinct scores, so that most of them tie; both classes are there."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=18))]
    score = st.integers(-3, 3).map(float) | st.floats(-3, 3)
    scores = draw(st.lists(score, min_size=len(labels), max_size=len(labels)))
    return scores, labels


def brute_force_rates(scores: list[float], labels: list[int]) -> list[tuple[float, float, float]]:
    """FNR, FPR and threshold, one trial at a time, at every score and above all."""
    targets = [s for s, label in zip(scores, labels, strict=True) if label == 1]
    others = [s for s, label in zip(scores, labels, strict=True) if label == 0]
    rates = []
    for threshold in [*sorted(set(scores)), np.inf]:
        fnr = sum(not s >= threshold for s in targets) / len(targets)
        fpr = sum(s >= threshold for s in others) / len(others)
        rates.append((fnr, fpr, threshold))
    return rates


def test_equal_error_rate_where_the_rates_meet() -> None:
    # threshold 0.4 accepts 0.4 (non-target) and 0.8 (target): one of two wrong on both sides
    eer, threshold = equal_error_rate([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    assert (eer, threshold) == (50.0, 0.4)


def test_equal_error_rate_looks_between_the_corners_of_the_curve() -> None:
    # FNR is 1/2 from 2 to 5 while FPR goes 0, 1/3, 2/3, 1: the least gap is 1/6, at 4 and at 3
    eer, threshold = equal_error_rate([5, 4, 3, 2, 1], [1, 0, 0, 0, 1])
    assert (eer, threshold) == (50.0, 4.0)


def test_separated_classes_have_no_error() -> None:
    scores, labels = [-2.0, -1.0, 3.0, 4.0], [0, 0, 1, 1]
    assert equal_error_rate(scores, labels) == (0.0, 3.0)
    assert min_detection_cost(scores, labels, 0.01) == (0.0, 3.0)


def test_equal_scores_move_together() -> None:
    fnr, fpr, thresholds = error_rates([0.5, 0.5, 0.5], [1, 0, 0])
    assert fnr.tolist() == [0.0, 1.0]
    assert fpr.tolist() == [1.0, 0.0]
    assert thresholds[0] == 0.5
    assert 0.5 < thresholds[1] < 0.5 + 1e-12
    assert equal_error_rate([0.5, 0.5, 0.5], [1, 0, 0])[0] == 100.0


def test_detection_cost_by_hand() -> None:
    # At 0.8 half of the targets is missed and nothing falsely accepted: 0.5 * 0.01 / 0.01
    scores, labels = [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]
    assert min_detection_cost(scores, labels, 0.01) == pytest.approx((0.5, 0.8))
    # Misses ten times as dear: at 0.35 the cost is 0.5 * 0.7, at 0.8 it is 10 * 0.3 * 0.5; scaled by 0.7
    assert min_detection_cost(scores, labels, 0.3, c_miss=10, c_fa=1) == pytest.approx((0.5, 0.35))


def test_threshold_that_refuses_all_is_finite_and_does_so() -> None:
    cost, threshold = min_detection_cost([2.0, 1.0], [0, 1], 0.01)
    assert cost == 1.0
    assert np.isfinite(threshold)
    assert threshold > 2.0


def test_operating_point_has_a_name_and_a_bayes_threshold() -> None:
    names = {0.01: "p01", 0.05: "p05", 0.5: "p5", 0.001: "p001", 0.25: "p25"}
    assert {p_target: OperatingPoint(p_target).name for p_target in names} == names
    assert OperatingPoint(0.01).threshold == pytest.approx(math.log(99))
    assert OperatingPoint(0.5, c_miss=1, c_fa=10).threshold == pytest.approx(math.log(10))


def test_actual_cost_by_hand() -> None:
    # At 0.05 the threshold is log 19 = 2.94: one of two targets is missed, one of four non-targets accepted.
    llrs, labels = [2.9, 3.0, 3.0, 0.0, -1.0, -5.0], [1, 1, 0, 0, 0, 0]
    expected = (0.05 * 0.5 + 0.95 * 0.25) / 0.05
    assert actual_detection_cost(llrs, labels, 0.05) == pytest.approx(expected)


def test_cllr_by_hand() -> None:
    assert cllr([0.0, 0.0, 0.0], [1, 0, 0]) == pytest.approx(1.0)
    # log 3 costs a target log2(4/3) and a non-target 2 bits; -log 3 the other way round
    expected = (math.log2(4 / 3) + (2 + math.log2(4 / 3)) / 2) / 2
    assert cllr([math.log(3), math.log(3), -math.log(3)], [1, 0, 0]) == pytest.approx(expected)
    assert cllr([800.0, -800.0], [1, 0]) == 0.0
    assert cllr([-800.0, 800.0], [1, 0]) == pytest.approx(800 / math.log(2))


def test_min_cllr_by_hand() -> None:
    assert min_cllr([1.0, 2.0, 3.0], [0, 0, 1]) == 0.0
    assert min_cllr([3.0, 2.0, 1.0], [0, 0, 1]) == pytest.approx(1.0)  # any rising function ties them all
    # Two scores tie; one of them is the only target's: the odds there are 1 target to 1/3 of the non-targets.
    expected = (math.log2(1 + 1 / 3) + math.log2(1 + 3) / 3) / 2
    assert min_cllr([0.0, 1.0, 2.0, 2.0], [0, 0, 0, 1]) == pytest.approx(expected)


@given(short_lists())
def test_min_cllr_equals_brute_force(trials: Trials) -> None:
    scores, labels = np.array(trials[0]), np.array(trials[1])
    distinct = np.unique(scores)

    @cache
    def share(low: float, high: float) -> float:
        return float(labels[(scores >= low) & (scores <= high)].mean())

    bits = {1: 0.0, 0: 0.0}
    for score, label in zip(scores, labels, strict=True):  # isotonic regression as a maximum of minima
        target_share = max(min(share(a, b) for b in distinct if b >= score) for a in distinct if a <= score)
        prior = labels.mean()
        weights = {1: target_share / prior, 0: (1 - target_share) / (1 - prior)}
        bits[label] += math.log2(1 + weights[1 - label] / weights[label]) / (labels == label).sum()
    assert min_cllr(scores, labels) == pytest.approx((bits[0] + bits[1]) / 2, abs=1e-12)


@given(short_lists(), st.floats(0.1, 5), st.floats(-3, 3))
def test_no_rising_function_costs_less_than_the_least(trials: Trials, slope: float, offset: float) -> None:
    scores, labels = np.array(trials[0]), trials[1]
    llrs = slope * scores + offset
    assert min_cllr(llrs, labels) <= cllr(llrs, labels) + 1e-12
    assert min_detection_cost(llrs, labels, 0.3)[0] <= actual_detection_cost(llrs, labels, 0.3) + 1e-12


@given(short_lists())
def test_error_rates_equal_brute_force(trials: Trials) -> None:
    expected = np.array(brute_force_rates(*trials))
    fnr, fpr, thresholds = error_rates(*trials)
    np.testing.assert_allclose(fnr, expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(fpr, expected[:, 1], atol=1e-12)
    np.testing.assert_array_equal(thresholds[:-1], expected[:-1, 2])


@given(short_lists())
def test_equal_error_rate_equals_brute_force(trials: Trials) -> None:
    rates = brute_force_rates(*trials)
    least = min(abs(fnr - fpr) for fnr, fpr, _ in rates)
    expected = min(max(fnr, fpr) for fnr, fpr, _ in rates if abs(fnr - fpr) < least + 1e-9)
    eer, threshold = equal_error_rate(*trials)
    assert eer == pytest.approx(100 * expected)
    at_threshold = {t: max(fnr, fpr) for fnr, fpr, t in rates}
    assert at_threshold.get(threshold, at_threshold[np.inf]) == pytest.approx(expected)


@given(short_lists(), st.sampled_from([0.01, 0.05, 0.5, 0.9]), st.sampled_from([1.0, 10.0]))
def test_detection_cost_equals_brute_force(trials: Trials, p_target: float, c_miss: float) -> None:
    costs = {t: c_miss * p_target * fnr + (1 - p_target) * fpr for fnr, fpr, t in brute_force_rates(*trials)}
    scale = min(c_miss * p_target, 1 - p_target)
    cost, threshold = min_detection_cost(*trials, p_target, c_miss=c_miss)
    assert cost == pytest.approx(min(costs.values()) / scale)
    assert costs.get(threshold, costs[np.inf]) / scale == pytest.approx(cost)


@given(short_lists())
def test_rising_transforms_change_no_error_rate(trials: Trials) -> None:
    scores, labels = trials
    _, places = np.unique(scores, return_inverse=True)  # ranks, with ties
    stretched = np.sinh(places / 4.0) - 7
    assert equal_error_rate(stretched, labels)[0] == equal_error_rate(scores, labels)[0]
    assert min_detection_cost(stretched, labels, 0.05)[0] == min_detection_cost(scores, labels, 0.05)[0]
    assert min_cllr(stretched, labels) == min_cllr(scores, labels)


@given(short_lists())
def test_classes_changed_round_change_nothing_that_weighs_both_alike(trials: Trials) -> None:
    scores, labels = np.array(trials[0]), np.array(trials[1])
    assert equal_error_rate(-scores, 1 - labels)[0] == equal_error_rate(scores, labels)[0]
    assert cllr(-scores, 1 - labels) == pytest.approx(cllr(scores, labels))
    assert min_cllr(-scores, 1 - labels) == pytest.approx(min_cllr(scores, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [1, 1], "2 of 2 trials are targets"),
        ([0.1, 0.2], [0, 0], "0 of 2 trials are targets"),
        ([], [], "0 of 0 trials are targets"),
        ([0.1, np.nan], [0, 1], "score of trial 1 is not finite"),
        ([0.1, 0.2, 0.3], [0, 1], "must be 1-D and of one length"),
        ([0.1, 0.2], [0, 2], "labels are"),
    ],
)
def test_impossible_trials_are_refused(scores: list[float], labels: list[int], message: str) -> None:
    for measure in (
        equal_error_rate,
        cllr,
        min_cllr,
        lambda s, y: min_detection_cost(s, y, 0.01),
        lambda s, y: actual_detection_cost(s, y, 0.01),
    ):
        with pytest.raises(DataError, match=message):
            measure(scores, labels)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.2])
def test_impossible_prior_is_refused(prior: float) -> None:
    with pytest.raises(ParameterError, match="p_target"):
        min_detection_cost([0.0, 1.0], [0, 1], prior)
    with pytest.raises(ParameterError, match="p_target"):
        actual_detection_cost([0.0, 1.0], [0, 1], prior)
