from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.scoring import equal_error_rate
from speaker_verification.scoring.bootstrap import equal_error_rate_interval
from speaker_verification.scoring.metrics import sort_trials

Trials = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_trials(num_speakers: int, num_trials: int, decimals: int = 6) -> Trials:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, num_trials)
    enroll = rng.integers(0, num_speakers, num_trials)
    other = (enroll + rng.integers(1, num_speakers, num_trials)) % num_speakers
    test = np.where(labels == 1, enroll, other)
    ease = rng.normal(size=num_speakers)  # speakers differ, so resampling them matters
    scores = np.round(labels * 2 + ease[enroll] * 0.7 + rng.normal(size=num_trials), decimals)
    return scores, labels, enroll, test


@pytest.mark.parametrize(("num_trials", "decimals"), [(150, 6), (150, 0), (7000, 6), (7000, 1)])
def test_interval_equals_repeating_the_trials_of_the_drawn_speakers(num_trials: int, decimals: int) -> None:
    scores, labels, enroll, test = random_trials(num_speakers=9, num_trials=num_trials, decimals=decimals)
    rng = np.random.default_rng([5, 9])
    rates = []
    for _ in range(40):
        drawn = rng.integers(9, size=9).tolist()
        times = [
            drawn.count(e) if e == t else drawn.count(e) * drawn.count(t)
            for e, t in zip(enroll, test, strict=True)
        ]
        rates.append(equal_error_rate(np.repeat(scores, times), np.repeat(labels, times))[0])
    low, high = equal_error_rate_interval(sort_trials(scores, labels), enroll, test, num_resamples=40, seed=5)
    assert (low, high) == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))


def test_interval_holds_the_rate_and_repeats_with_its_seed() -> None:
    scores, labels, *speakers = random_trials(num_speakers=30, num_trials=3000)
    trials = sort_trials(scores, labels)
    low, high = equal_error_rate_interval(trials, *speakers)
    assert low < equal_error_rate(scores, labels)[0] < high
    assert equal_error_rate_interval(trials, *speakers) == (low, high)
    assert equal_error_rate_interval(trials, *speakers, seed=1) != (low, high)


def test_draws_of_one_class_are_left_out() -> None:
    # Of two speakers, half of the draws repeat one and leave no non-target trial.
    trials = sort_trials([0.0, 1.0, 2.0], [0, 1, 1])
    low, high = equal_error_rate_interval(trials, np.array([0, 0, 1]), np.array([1, 0, 1]))
    assert (low, high) == (0.0, 0.0)


def test_nothing_is_known_when_no_draw_keeps_both_classes() -> None:
    trials = sort_trials([0.0, 1.0], [0, 1])
    interval = equal_error_rate_interval(trials, np.array([0, 2]), np.array([1, 2]), num_resamples=1, seed=0)
    drawn = np.random.default_rng([0, 3]).integers(3, size=3)
    assert len(set(drawn.tolist())) < 3  # this seed draws a speaker twice, so a class is gone
    assert interval == (0.0, 100.0)
