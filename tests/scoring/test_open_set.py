from __future__ import annotations

import numpy as np
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.open_set import Searches, open_set_rates

# Gallery a, b. Probes of a: 5 to a; 1 to a; 4 to b. Probe of b: 3 to b. Probes of c: 2, 4; of d: 0, 1.
SCORES = np.array([[5, 0], [1, 0], [3, 4], [2, 3], [2, -1], [1, 4], [0, -2], [1, 0.5]], dtype=float)
PROBES, GALLERY = list("aaabccdd"), list("ab")


def test_rates_of_a_hand_made_gallery() -> None:
    searches = Searches.of(SCORES, PROBES, GALLERY)
    np.testing.assert_array_equal(searches.highest, [5, 1, 4, 3, 2, 4, 0, 1])
    np.testing.assert_array_equal(searches.is_own, [1, 1, 0, 1, 0, 0, 0, 0])
    rates = open_set_rates(searches, [-9, 1, 2, 4, 4.5, 9], num_resamples=0)
    np.testing.assert_array_equal(rates.false_alarm.values, [1, 3 / 4, 2 / 4, 1 / 4, 0, 0])
    np.testing.assert_array_equal(rates.miss.values, [0, 0, 1 / 4, 2 / 4, 3 / 4, 1])
    np.testing.assert_array_equal(rates.misidentification.values, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0, 0])


def test_a_gallery_that_separates_makes_no_errors_between_its_scores() -> None:
    searches = Searches.of(np.array([[9.0, 0.0], [0.0, 8.0], [1.0, 2.0]]), list("abc"), list("ab"))
    rates = open_set_rates(searches, [3.0, 8.0])
    for rate in (rates.false_alarm, rates.miss, rates.misidentification):
        assert [*rate.values, *rate.low, *rate.high] == [0.0] * 6


def test_intervals_draw_whole_speakers() -> None:
    # Of four others two are always named, with three probes each, and two never, with one each. A resample
    # has k of the first, binomial(4, 1/2): 3k of 3k + 4 - k are named, which is 0 for k = 0 and 1 for k = 4,
    # of probability 1/16 each, so the 95 % interval reaches both ends. The 80 % interval ends at k = 1 and 3.
    probes = ["a", *"bbbcccde"]
    highest = np.array([9.0, *[5.0] * 6, 0.0, 0.0])
    enrolled = np.array([True] + [False] * 8)
    searches = Searches(highest, enrolled, enrolled, np.array(probes))
    for confidence, ends in ((0.95, (0.0, 1.0)), (0.8, (3 / 6, 9 / 10))):
        rates = open_set_rates(searches, [1.0], num_resamples=4000, confidence=confidence)
        assert rates.false_alarm.values[0] == 6 / 8
        assert (rates.false_alarm.low[0], rates.false_alarm.high[0]) == pytest.approx(ends)


def test_intervals_are_the_same_for_the_same_seed_and_for_renamed_speakers() -> None:
    one = open_set_rates(Searches.of(SCORES, PROBES, GALLERY), [2.0], seed=3)
    renamed = open_set_rates(Searches.of(SCORES, [ord(name) for name in PROBES], [97, 98]), [2.0], seed=3)
    for rate in ("false_alarm", "miss", "misidentification"):
        assert vars(getattr(one, rate)) == vars(getattr(renamed, rate))


def test_searches_that_give_no_rates_are_refused() -> None:
    with pytest.raises(DataError, match="3 of 3 probes are of enrolled"):
        Searches.of(np.ones((3, 2)), list("aab"), list("ab"))
    with pytest.raises(DataError, match="0 of 3 probes"):
        Searches.of(np.ones((3, 2)), list("ccd"), list("ab"))
    with pytest.raises(DataError, match="probe 1 is not finite"):
        Searches.of(np.array([[1.0], [np.nan]]), list("ac"), ["a"])
    yes, no = np.array([True, False]), np.array([False, False])
    with pytest.raises(DataError, match=r"not for others: \['a'\]"):
        Searches(np.ones(2), no, yes, np.array(["a", "a"]))
    with pytest.raises(DataError, match="shapes"):
        Searches(np.ones(3), no, yes, np.array(["a", "c"]))
