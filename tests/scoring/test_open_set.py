from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.evaluation import score_trials
from speaker_verification.scoring.open_set import (
    Searches,
    draw_gallery,
    open_set_rates,
    search_gallery,
    tabulate_rates,
)
from speaker_verification.scoring.settings import ScoreSettings
from tests.support.stores import make_store, side_scorer

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


def test_a_gallery_is_half_of_the_speakers_with_one_utterance_each() -> None:
    speakers = pd.Series(list("aabbbccddddeef"))  # f has one utterance and cannot be probed
    gallery, probes = draw_gallery(speakers, seed=2)
    assert sorted([*gallery, *probes]) == list(range(14))
    assert speakers[gallery].is_unique
    assert len(gallery) == 3
    assert "f" not in set(speakers[gallery])
    np.testing.assert_array_equal(draw_gallery(speakers, seed=2)[0], gallery)
    assert any(set(draw_gallery(speakers, seed)[0]) != set(gallery) for seed in range(5))
    assert len(draw_gallery(pd.Series(list("abc")), seed=0)[0]) == 0


@pytest.mark.parametrize("llr", ["cosine", "qmf"])
def test_a_search_gives_the_highest_ratio_of_the_scores_table(llr: str) -> None:
    scorer, store = side_scorer(llr), make_store([4] * 6, seed=8)
    searches = search_gallery(store, scorer, seed=1)
    gallery, probes = draw_gallery(store.utterances["speaker_id"], seed=1)
    ids = store.utterances["utterance_id"].to_numpy()
    pairs = pd.MultiIndex.from_product([ids[probes], ids[gallery]], names=["test_id", "enroll_id"])
    trials = pairs.to_frame(index=False).assign(trial_list="all", label=0)
    settings = ScoreSettings(top_n=9, llr=llr)
    table = score_trials(trials, store, scorer.cohort, scorer.calibration, scorer.fitted, settings)
    llrs = table["llr"].to_numpy().reshape(len(probes), len(gallery))
    np.testing.assert_allclose(searches.highest, llrs.max(axis=1), rtol=1e-6, atol=1e-6)
    names = store.utterances["speaker_id"].to_numpy()
    np.testing.assert_array_equal(searches.is_own, names[gallery][llrs.argmax(axis=1)] == names[probes])
    assert searches.is_enrolled.sum() == 3 * 3


def test_a_store_that_allows_no_gallery_is_refused() -> None:
    with pytest.raises(DataError, match="of 3 speakers"):
        search_gallery(make_store([1, 1, 1]), side_scorer("cosine"), seed=0)


def test_the_table_of_rates_is_in_percent() -> None:
    rates = open_set_rates(Searches.of(SCORES, PROBES, GALLERY), [2.0], num_resamples=0)
    row = tabulate_rates(rates).iloc[0]
    assert row[["threshold", "false_alarm", "miss", "misidentification"]].tolist() == [2.0, 50.0, 25.0, 25.0]
    assert row["false_alarm_low"] == row["false_alarm_high"] == 50.0
    assert tabulate_rates(None).columns.tolist() == row.index.tolist()


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
