from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.scoring import equal_error_rate
from speaker_verification.scoring.paired import SystemRates, rate_difference, system_rates
from speaker_verification.scoring.trial_speakers import TrialSpeakers

NUM_SPEAKERS, NUM_RESAMPLES = 8, 40


def trials() -> tuple[np.ndarray, TrialSpeakers, np.random.Generator]:
    """Labels and speakers of 400 trials, and a source of scores."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 400)
    enroll = rng.integers(0, NUM_SPEAKERS, 400)
    other = (enroll + rng.integers(1, NUM_SPEAKERS, 400)) % NUM_SPEAKERS
    return labels, TrialSpeakers(enroll, np.where(labels == 1, enroll, other), NUM_SPEAKERS), rng


def rates_of(*scores: np.ndarray, labels: np.ndarray, speakers: TrialSpeakers) -> SystemRates:
    return system_rates(scores, labels, speakers, num_resamples=NUM_RESAMPLES, seed=2)


def test_differences_are_those_of_both_systems_on_the_trials_of_the_same_speakers() -> None:
    labels, speakers, rng = trials()
    one, other = (labels * gap + rng.normal(size=len(labels)) for gap in (1.0, 1.3))
    rng = np.random.default_rng([2, NUM_SPEAKERS])
    differences = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(NUM_SPEAKERS, size=NUM_SPEAKERS).tolist()
        times = [
            drawn.count(e) if e == t else drawn.count(e) * drawn.count(t)
            for e, t in zip(speakers.enroll, speakers.test, strict=True)
        ]
        rates = [
            equal_error_rate(np.repeat(scores, times), np.repeat(labels, times))[0] for scores in (one, other)
        ]
        differences.append(rates[1] - rates[0])
    found = rate_difference(*(rates_of(s, labels=labels, speakers=speakers) for s in (one, other)))
    assert found.value == equal_error_rate(other, labels)[0] - equal_error_rate(one, labels)[0]
    assert found.interval == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))


def test_a_system_does_not_differ_from_itself() -> None:
    labels, speakers, rng = trials()
    rates = rates_of(labels + rng.normal(size=len(labels)), labels=labels, speakers=speakers)
    difference = rate_difference(rates, rates)
    assert (difference.value, difference.interval, difference.is_clear) == (0, (0, 0), False)


def test_a_far_better_system_is_clearly_better() -> None:
    labels, speakers, rng = trials()
    noise = rng.normal(size=len(labels))
    poor, good = (rates_of(gap * labels + noise, labels=labels, speakers=speakers) for gap in (0.2, 6.0))
    difference = rate_difference(poor, good)
    assert difference.is_clear
    assert difference.value < 0
    assert difference.interval is not None
    assert difference.interval[1] < 0


def test_means_and_deviations_are_over_seeds() -> None:
    rates = SystemRates(np.array([2.0, 3.0, 4.0]), np.zeros((3, 5)))
    assert (rates.mean, rates.deviation) == (3.0, 1.0)
    assert SystemRates(np.array([2.0]), np.zeros((1, 5))).deviation is None


def test_a_difference_that_another_seed_would_undo_is_not_clear() -> None:
    # No speaker matters: all resamples of a run are its rate. One of two seeds turns the difference round.
    def of(*rates: float) -> SystemRates:
        return SystemRates(np.array(rates), np.repeat(np.array(rates)[:, None], 2000, axis=1))

    undone = rate_difference(of(2.0, 4.0), of(1.0, 3.0))
    assert undone.value == -1.0
    # Means of two runs drawn with replacement: 2, 3 or 4 against 1, 2 or 3; +1 and -3 have 1/16 each.
    assert undone.interval == (-3.0, 1.0)
    assert not undone.is_clear
    assert rate_difference(of(2.0, 2.0), of(1.0, 1.0)).is_clear
