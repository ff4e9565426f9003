from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.evaluation import score_trials
from speaker_verification.scoring.scorings.as_norm import AsNorm
from speaker_verification.scoring.scorings.base import Trials
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.sides import Lines, Sides, SideScorer, find_highest
from tests.support.stores import make_store, side_scorer


@pytest.mark.parametrize("llr", ["cosine", "as_norm", "qmf"])
def test_scores_from_what_is_kept_of_each_side_are_those_of_the_scores_table(llr: str) -> None:
    scorer = side_scorer(llr)
    store = make_store([5, 5, 5], seed=3)
    enroll, test = np.triu_indices(15, k=1)
    ids, seconds = store.utterances["utterance_id"].to_numpy(), store.utterances["duration_seconds"]
    trials = pd.DataFrame({"trial_list": "all", "label": 0, "enroll_id": ids[enroll], "test_id": ids[test]})
    settings = ScoreSettings(top_n=9, llr=llr)
    table = score_trials(trials, store, scorer.cohort, scorer.calibration, scorer.fitted, settings)
    sides = scorer.describe(store.embeddings, seconds)
    cosines = np.einsum("te,te->t", sides.directions[enroll], sides.directions[test])
    ratios = scorer.log_likelihood_ratios(cosines, sides.at(enroll), sides.at(test))
    np.testing.assert_allclose(ratios, table["llr"], rtol=1e-6, atol=1e-6)
    one = scorer.describe(store.embeddings[[4]], seconds[[4]])
    with_one = scorer.log_likelihood_ratios(sides.directions @ one.directions[0], sides, one)
    np.testing.assert_allclose(with_one[:4], table["llr"][(test == 4)], rtol=1e-6, atol=1e-6)


def test_a_share_of_the_cohort_counts_as_its_number() -> None:
    scorer, store = side_scorer("as_norm"), make_store([5, 5, 5], seed=3)
    enroll, test = np.triu_indices(15, k=1)
    cohort, seconds = scorer.cohort, store.utterances["duration_seconds"]
    number = round(0.3 * len(cohort.embeddings))
    of_trials, of_sides = [], []
    for top_n in (0.3, number):
        settings = ScoreSettings(top_n=top_n)
        of_trials.append(AsNorm().score(Trials(store, enroll, test, cohort, settings), {}))
        described = replace(scorer, settings=settings).describe(store.embeddings, seconds)
        of_sides.append(described.statistics)
    np.testing.assert_array_equal(*of_trials)
    np.testing.assert_array_equal(*of_sides)
    AsNorm.check_cohort(ScoreSettings(top_n=0.5), np.full(6, 2))
    with pytest.raises(ParameterError, match=r"'score\.top_n' is 5, .* take 2 to 4"):
        AsNorm.check_cohort(ScoreSettings(top_n=0.8), np.full(6, 2))


def test_a_scoring_that_compares_whole_embeddings_is_refused() -> None:
    scorer = side_scorer("cosine")
    calibration = replace(scorer.calibration, llr="plda")
    with pytest.raises(ParameterError, match=r"'plda'.*cosine, as_norm, qmf"):
        SideScorer(scorer.cohort, scorer.settings, calibration, scorer.fitted)


def test_a_scoring_that_was_not_fitted_is_refused() -> None:
    scorer = side_scorer("qmf")
    with pytest.raises(DataError, match="'qmf'"):
        SideScorer(scorer.cohort, scorer.settings, scorer.calibration, {})


def kept(sides: Sides, scorer: SideScorer) -> Lines:
    return scorer.lines(replace(sides, directions=sides.directions.astype(np.float32)))


@pytest.mark.parametrize("llr", ["cosine", "as_norm", "qmf"])
@pytest.mark.parametrize("num_highest", [1, 7, 500])
def test_the_search_finds_the_highest_of_all_counted_sides(
    llr: str, num_highest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speaker_verification.scoring.sides.ROWS_PER_BLOCK", 16)
    scorer, rng = side_scorer(llr), np.random.default_rng(5)
    counted = [rng.random(number) < 0.7 for number in (100, 1, 40)]
    seconds = rng.uniform(1, 9, 142)
    store = make_store([142], seed=9)
    test = scorer.describe(store.embeddings[:1], seconds[:1])
    sides = scorer.describe(store.embeddings[1:], seconds[1:])
    ratios = scorer.log_likelihood_ratios(sides.directions @ test.directions[0], sides, test)
    parts = [kept(sides.at(slice(*ends)), scorer) for ends in ((0, 100), (100, 101), (101, 141))]
    found = find_highest(parts, counted, test, scorer, num_highest)
    rows = np.concatenate([places + first for places, first in zip(found, (0, 100, 101), strict=True)])
    allowed = np.flatnonzero(np.concatenate(counted))
    best = allowed[np.argsort(-ratios[allowed])][:num_highest]
    assert set(best) <= set(rows) <= set(allowed)
    assert len(rows) <= len(best) + 3


def test_sides_that_differ_less_than_float32_rounding_are_all_found() -> None:
    scorer = side_scorer("as_norm")
    base = make_store([1], seed=2).embeddings[0].astype(np.float64)
    test = scorer.describe(base[None] + 0.1, [3.0])
    close = base + 1e-9 * np.random.default_rng(0).normal(size=(50, 8))
    far = make_store([50], seed=6).embeddings
    sides = kept(scorer.describe(np.concatenate([far, close]), np.full(100, 3.0)), scorer)
    (rows,) = find_highest([sides], [np.full(100, True)], test, scorer, 3)
    assert set(rows) == set(range(50, 100))
