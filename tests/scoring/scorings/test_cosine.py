from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.scoring import EmbeddingStore
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.scorings.cosine import cosine_scores, two_view_scores
from tests.support import reference

MakeStore = Callable[..., EmbeddingStore]


@pytest.mark.parametrize("rows_per_block", [2, 1024])
def test_cosine_scores_equal_one_trial_at_a_time(make_store: MakeStore, rows_per_block: int) -> None:
    store, centre = make_store([3, 4]), np.arange(8.0) / 10
    enroll, test = np.array([0, 1, 2, 6, 5, 5, 0]), np.array([1, 1, 3, 0, 4, 2, 6])
    scores = cosine_scores(store.embeddings, centre, enroll, test, ComputeBudget(), rows_per_block)
    raw = store.embeddings.astype(np.float64)
    expected = [reference.cosine(raw[e] - centre, raw[t] - centre) for e, t in zip(enroll, test, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_a_centre_far_away_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    centre = np.full(16, 100.0)
    embeddings = (centre + rng.normal(size=(20, 16))).astype(np.float32)
    rows = np.arange(20)
    scores = cosine_scores(embeddings, centre, rows, rows[::-1], ComputeBudget())
    apart = embeddings.astype(np.float64) - centre
    expected = [reference.cosine(apart[row], apart[19 - row]) for row in rows]
    np.testing.assert_allclose(scores, expected, atol=1e-10)


def test_centring_needs_one_width_and_embeddings_with_a_direction(make_store: MakeStore) -> None:
    store, rows = make_store([3]), np.zeros(1, dtype=int)
    directions = centre_and_normalise(store.embeddings)
    np.testing.assert_allclose(np.square(directions).sum(axis=1), 1)
    with pytest.raises(DataError, match="width 8 cannot be scored with a cohort of width 5"):
        cosine_scores(store.embeddings, np.zeros(5), rows, rows, ComputeBudget())
    centre = store.embeddings[2].astype(np.float64)
    for refuse in (
        lambda: centre_and_normalise(store.embeddings, centre),
        lambda: cosine_scores(store.embeddings, centre, rows, rows, ComputeBudget()),
    ):
        with pytest.raises(DataError, match="embedding 2 has length 0: it equals the cohort mean"):
            refuse()
    with pytest.raises(DataError, match="embedding 7 has length inf: it is not finite"):
        centre_and_normalise(np.array([[np.inf, 1.0]]), first_row=7)


def test_two_views_are_the_mean_of_whole_cosine_and_of_all_pairs_of_crops(make_store: MakeStore) -> None:
    whole = make_store([2, 2])
    crops = np.random.default_rng(5).normal(size=(4, 3, 8)).astype(np.float32)
    store = EmbeddingStore(whole.embeddings, whole.utterances, crops)
    centre = np.full(8, 0.1)
    scores = two_view_scores(store, centre, np.array([0, 2]), np.array([1, 3]), ComputeBudget())
    for score, (e, t) in zip(scores, [(0, 1), (2, 3)], strict=True):
        pairs = [reference.cosine(one - centre, other - centre) for one in crops[e] for other in crops[t]]
        alone = reference.cosine(whole.embeddings[e] - centre, whole.embeddings[t] - centre)
        assert score == pytest.approx((sum(pairs) / 9 + alone) / 2, rel=1e-9)
