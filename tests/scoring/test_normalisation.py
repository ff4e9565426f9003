from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.scoring import EmbeddingStore, as_norm, cohort_statistics, cosine, normalisation
from speaker_verification.scoring.cosine import (
    centre_and_normalise,
    centre_of,
    cohort_mean,
    cosine_scores,
    trial_scores,
)
from speaker_verification.scoring.normalisation import speaker_means

MakeStore = Callable[..., EmbeddingStore]


def cosine_of(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def highest(values: list[float], top_n: int) -> tuple[float, float]:
    kept = sorted(values)[-top_n:]
    mean = sum(kept) / top_n
    return mean, (sum((v - mean) ** 2 for v in kept) / (top_n - 1)) ** 0.5


def test_cohort_mean_is_over_utterances_not_speakers(make_store: MakeStore) -> None:
    store = make_store([5, 1])
    expected = sum(store.embeddings.astype(np.float64)) / 6
    np.testing.assert_allclose(cohort_mean(store), expected)
    means, _ = speaker_means(store)
    assert not np.allclose(cohort_mean(store), means.mean(axis=0))


def test_speaker_means_are_of_raw_embeddings_in_the_order_of_ids(make_store: MakeStore) -> None:
    store = make_store([3, 1, 4])
    means, speaker_ids = speaker_means(store)
    assert speaker_ids == ["id000", "id001", "id002"]
    for speaker_id, mean in zip(speaker_ids, means, strict=True):
        own = [
            store.embeddings[row].astype(np.float64)
            for row in range(8)
            if store.utterances["speaker_id"][row] == speaker_id
        ]
        np.testing.assert_allclose(mean, sum(own) / len(own))


def test_cosine_scores_equal_one_trial_at_a_time(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosine, "_TRIALS_PER_BLOCK", 3)
    store, mean = make_store([3, 4]), np.arange(8.0) / 10
    enroll, test = np.array([0, 1, 2, 6, 5, 5, 0]), np.array([1, 1, 3, 0, 4, 2, 6])
    scores = cosine_scores(centre_and_normalise(store.embeddings, mean), enroll, test)
    raw = store.embeddings.astype(np.float64)
    expected = [cosine_of(raw[e] - mean, raw[t] - mean) for e, t in zip(enroll, test, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_centring_keeps_float32_and_needs_one_width(make_store: MakeStore) -> None:
    store = make_store([3])
    directions = centre_and_normalise(store.embeddings, np.zeros(8))
    assert directions.dtype == np.float32
    np.testing.assert_allclose(np.square(directions).sum(axis=1), 1, rtol=1e-6)
    with pytest.raises(DataError, match="width 8 cannot be scored with a cohort of width 5"):
        centre_and_normalise(store.embeddings, np.zeros(5))
    with pytest.raises(DataError, match="embedding 2 of 3 has length 0"):
        centre_and_normalise(store.embeddings, store.embeddings[2].astype(np.float64))


@pytest.mark.parametrize("scores_per_block", [1, 30, 10_000])
@pytest.mark.parametrize("top_n", [2, 5, 12])
def test_cohort_statistics_equal_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, scores_per_block: int, top_n: int
) -> None:
    monkeypatch.setattr(normalisation, "_SCORES_PER_BLOCK", scores_per_block)
    rng = np.random.default_rng(1)
    embeddings, cohort = rng.normal(size=(7, 6)), rng.normal(size=(12, 6))
    mean, std = cohort_statistics(embeddings, cohort, top_n)
    expected = [highest([cosine_of(e, c) for c in cohort], top_n) for e in embeddings]
    np.testing.assert_allclose(np.stack([mean, std], axis=1), expected, rtol=1e-9)


def test_excluded_speakers_do_not_count() -> None:
    rng = np.random.default_rng(2)
    embeddings, cohort = rng.normal(size=(5, 6)), rng.normal(size=(9, 6))
    excluded = np.array([[0, 0], [1, 2], [8, 3], [4, 5], [7, 7]])
    mean, std = cohort_statistics(embeddings, cohort, 7, excluded=excluded)
    expected = [
        highest([cosine_of(e, c) for place, c in enumerate(cohort) if place not in left_out], 7)
        for e, left_out in zip(embeddings, excluded.tolist(), strict=True)
    ]
    np.testing.assert_allclose(np.stack([mean, std], axis=1), expected, rtol=1e-9)


def test_the_deviation_may_be_biased_and_speakers_have_several_rows() -> None:
    rng = np.random.default_rng(4)
    embeddings, cohort = rng.normal(size=(3, 6)), rng.normal(size=(9, 6))
    speakers = np.array([0, 0, 1, 2, 1, 2, 0, 3, 3])
    excluded = np.array([[0], [2], [3]])
    mean, std = cohort_statistics(
        embeddings, cohort, 5, deviation="biased", speakers=speakers, excluded=excluded
    )
    for row, e in enumerate(embeddings):
        cosines = [cosine_of(e, c) for c, s in zip(cohort, speakers, strict=True) if s != excluded[row, 0]]
        average, unbiased = highest(cosines, 5)
        np.testing.assert_allclose([mean[row], std[row]], [average, unbiased * (4 / 5) ** 0.5], rtol=1e-9)


def test_two_views_are_the_mean_of_whole_cosine_and_of_all_pairs_of_crops(make_store: MakeStore) -> None:
    whole = make_store([2, 2])
    crops = np.random.default_rng(5).normal(size=(4, 3, 8)).astype(np.float32)
    store = EmbeddingStore(whole.embeddings, whole.utterances, crops)
    centre = np.full(8, 0.1)
    scores = trial_scores(store, centre, np.array([0, 2]), np.array([1, 3]))
    for score, (e, t) in zip(scores, [(0, 1), (2, 3)], strict=True):
        pairs = [cosine_of(one - centre, other - centre) for one in crops[e] for other in crops[t]]
        alone = cosine_of(whole.embeddings[e] - centre, whole.embeddings[t] - centre)
        assert score == pytest.approx((sum(pairs) / 9 + alone) / 2, abs=1e-6)
    np.testing.assert_array_equal(centre_of(whole, False), np.zeros(8))
    np.testing.assert_array_equal(centre_of(whole, True), cohort_mean(whole))


def test_float32_statistics_agree_with_float64() -> None:
    rng = np.random.default_rng(3)
    embeddings, cohort = rng.normal(size=(20, 192)), rng.normal(size=(300, 192))
    exact = cohort_statistics(embeddings, cohort, 60)
    single = cohort_statistics(embeddings.astype(np.float32), cohort, 60)
    np.testing.assert_allclose(single, exact, rtol=1e-5)


def test_as_norm_by_hand() -> None:
    enroll_stats = (np.array([0.1, 0.0]), np.array([0.2, 0.5]))
    test_stats = (np.array([0.3, -0.5]), np.array([0.1, 0.25]))
    # (0.5 - 0.1) / 0.2 = 2 and (0.5 - 0.3) / 0.1 = 2; (0.25 - 0) / 0.5 = 0.5 and (0.25 + 0.5) / 0.25 = 3
    np.testing.assert_allclose(as_norm([0.5, 0.25], enroll_stats, test_stats), [2.0, 1.75])


@pytest.mark.parametrize("top_n", [1, 10])
def test_impossible_cohort_size_is_refused(top_n: int) -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(ParameterError, match=rf"'score.cohort_size' is {top_n}, .* 9 speakers: take 2 to 9"):
        cohort_statistics(rng.normal(size=(5, 6)), rng.normal(size=(9, 6)), top_n)


def test_collapsed_cohort_is_refused() -> None:
    cohort = np.tile([1.0, 2.0, 3.0], (5, 1))
    with pytest.raises(DataError, match="3 highest cohort cosines of embedding 0 are all equal"):
        cohort_statistics(np.eye(3), cohort, 3)
