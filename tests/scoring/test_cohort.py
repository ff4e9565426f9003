from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring import EmbeddingStore, as_norm, cohort_statistics, selection
from speaker_verification.scoring.blocks import ComputeBudget
from speaker_verification.scoring.cohort import Cohort, speaker_means, statistics_without_speakers
from speaker_verification.scoring.scorings.as_norm import as_norm_of_trials
from speaker_verification.scoring.scorings.cosine import cosine_scores
from speaker_verification.scoring.selection import torch_device
from tests.support import reference
from tests.support.reference import ReferenceCohort

MakeStore = Callable[..., EmbeddingStore]
CohortKind = Literal["speaker_means", "utterances"]


def expected_statistics(embeddings: np.ndarray, cohort: np.ndarray, top_n: int) -> np.ndarray:
    members = ReferenceCohort([str(row) for row in range(len(cohort))], list(cohort), np.zeros(1))
    return np.transpose([reference.cohort_statistics(e, members, top_n) for e in embeddings])


def test_speaker_means_are_of_raw_embeddings_in_the_order_of_names(
    make_store: MakeStore,
) -> None:
    store = make_store([3, 1, 4])
    means, speaker_of_row = speaker_means(store, rows_per_block=3)
    names = store.utterances["speaker_id"].tolist()
    assert [f"id{speaker:03}" for speaker in speaker_of_row] == names
    expected = ReferenceCohort.of(store.embeddings, names, centred=False)
    np.testing.assert_allclose(means, expected.embeddings)


def test_the_centre_is_the_mean_over_utterances_not_over_speakers(make_store: MakeStore) -> None:
    store = make_store([5, 1])
    expected = store.embeddings.astype(np.float64).mean(axis=0)
    cohort = Cohort.of(store, "speaker_means", centre=True)
    np.testing.assert_allclose(cohort.centre, expected)
    np.testing.assert_allclose(Cohort.of(store, "utterances", centre=True).centre, expected)
    assert not np.allclose(cohort.centre, cohort.embeddings.mean(axis=0))
    assert not Cohort.of(store, "speaker_means", centre=False).centre.any()


@pytest.mark.parametrize("memory_gigabytes", [1.0, 1e-9])  # held whole; computed anew for every row
@pytest.mark.parametrize("cohort_rows_per_block", [5, 100])
@pytest.mark.parametrize("top_n", [2, 5, 12])
def test_cohort_statistics_equal_a_full_sort(
    memory_gigabytes: float, cohort_rows_per_block: int, top_n: int
) -> None:
    rng = np.random.default_rng(1)
    embeddings, cohort = rng.normal(size=(7, 6)), rng.normal(size=(26, 6))
    budget = ComputeBudget(
        memory_gigabytes, 2, cohort_rows_per_block=cohort_rows_per_block, cosines_per_block=30
    )
    statistics = cohort_statistics(embeddings, cohort, top_n, budget=budget)
    np.testing.assert_allclose(statistics, expected_statistics(embeddings, cohort, top_n), rtol=1e-9)


@pytest.mark.parametrize("cohort_rows_per_block", [5, 100])
def test_a_gpu_s_selection_equals_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, cohort_rows_per_block: int
) -> None:
    monkeypatch.setattr(selection, "_on_device", torch_device)  # torch's arithmetic, on the CPU
    rng = np.random.default_rng(1)
    embeddings, cohort = rng.normal(size=(7, 6)), rng.normal(size=(26, 6))
    statistics = cohort_statistics(
        embeddings, cohort, 5, budget=ComputeBudget(cohort_rows_per_block=cohort_rows_per_block)
    )
    np.testing.assert_allclose(statistics, expected_statistics(embeddings, cohort, 5), rtol=1e-9)


def test_a_device_that_is_not_there_is_refused_and_auto_takes_what_is() -> None:
    rng = np.random.default_rng(1)
    embeddings, cohort = rng.normal(size=(7, 6)), rng.normal(size=(9, 6))
    with pytest.raises(ParameterError, match="'device' is 'cuda:99'"):
        cohort_statistics(embeddings, cohort, 5, budget=ComputeBudget(device="cuda:99"))
    automatic = cohort_statistics(embeddings, cohort, 5, budget=ComputeBudget(device="auto"))
    np.testing.assert_allclose(automatic, expected_statistics(embeddings, cohort, 5), rtol=1e-9)


def test_the_centre_may_be_subtracted_here_and_the_deviation_biased() -> None:
    rng = np.random.default_rng(4)
    embeddings, cohort, centre = rng.normal(size=(3, 6)), rng.normal(size=(9, 6)), rng.normal(size=6)
    mean, std = cohort_statistics(embeddings, cohort, 5, centre=centre, deviation="biased")
    expected_mean, unbiased = expected_statistics(embeddings - centre, cohort - centre, 5)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-9)
    np.testing.assert_allclose(std, unbiased * (4 / 5) ** 0.5, rtol=1e-9)


@pytest.mark.parametrize("width", [192, 256])
def test_float32_statistics_agree_with_float64(width: int) -> None:
    rng = np.random.default_rng(3)
    embeddings, cohort = rng.normal(size=(20, width)), rng.normal(size=(300, width))
    single = cohort_statistics(embeddings.astype(np.float32), cohort, 60)
    np.testing.assert_allclose(single, cohort_statistics(embeddings, cohort, 60), rtol=1e-5)


@pytest.mark.parametrize("kind", ["speaker_means", "utterances"])
def test_as_norm_of_float32_embeddings_equals_one_trial_at_a_time_in_float64(
    make_store: MakeStore, kind: CohortKind
) -> None:
    store, evaluated = make_store([4] * 30, width=32), make_store([5] * 4, width=32, seed=1)
    cohort = Cohort.of(store, kind, centre=True)
    rng = np.random.default_rng(0)
    rows = rng.integers(20, size=(2, 60))
    budget = ComputeBudget()
    statistics = cohort_statistics(evaluated.embeddings, cohort.embeddings, 20, centre=cohort.centre)
    cosine = cosine_scores(evaluated.embeddings, cohort.centre, *rows, budget)
    scores = as_norm_of_trials(cosine, statistics, *rows, budget)
    plain = ReferenceCohort.of(store.embeddings, store.utterances["speaker_id"].tolist(), kind)
    raw = evaluated.embeddings
    expected = [reference.as_norm(raw[e], raw[t], plain, 20) for e, t in rows.T]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["speaker_means", "utterances"])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("memory_gigabytes", [1.0, 1e-6])
def test_statistics_without_two_speakers_equal_those_of_a_cohort_without_them(
    make_store: MakeStore, kind: CohortKind, precision: type, memory_gigabytes: float
) -> None:
    counts = [3, 1, 4, 2, 5, 2, 3, 1]
    store = make_store(counts)
    top_n = 6 if kind == "speaker_means" else sum(counts) - 9  # all that is left without the two largest
    cohort = Cohort.of(store, kind, centre=True)
    # Each speaker with itself too, and with -1, who is not in the cohort.
    pairs = np.stack(np.meshgrid(range(-1, 8), range(-1, 8)), axis=-1).reshape(-1, 2)
    sides, excluded = np.repeat(np.arange(21), len(pairs)), np.tile(pairs, (21, 1))
    raw = store.embeddings.astype(precision)
    statistics = statistics_without_speakers(
        raw, cohort, top_n, sides, excluded, budget=ComputeBudget(memory_gigabytes)
    )
    plain = ReferenceCohort.of(raw, store.utterances["speaker_id"].tolist(), kind)
    left = [plain.without([f"id{s:03}" for s in pair]) for pair in pairs]
    expected = [reference.cohort_statistics(e - plain.centre, some, top_n) for e in raw for some in left]
    tolerance = 1e-9 if precision is np.float64 else 1e-5
    np.testing.assert_allclose(np.transpose(statistics), expected, rtol=tolerance, atol=tolerance)


def test_as_norm_by_hand() -> None:
    enroll_stats = (np.array([0.1, 0.0]), np.array([0.2, 0.5]))
    test_stats = (np.array([0.3, -0.5]), np.array([0.1, 0.25]))
    # (0.5 - 0.1) / 0.2 = 2 and (0.5 - 0.3) / 0.1 = 2; (0.25 - 0) / 0.5 = 0.5 and (0.25 + 0.5) / 0.25 = 3
    np.testing.assert_allclose(as_norm([0.5, 0.25], enroll_stats, test_stats), [2.0, 1.75])


@pytest.mark.parametrize("top_n", [1, 10])
def test_impossible_top_n_is_refused(top_n: int) -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(ParameterError, match=rf"'score.top_n' is {top_n}, .* 9 speakers: take 2 to 9"):
        cohort_statistics(rng.normal(size=(5, 6)), rng.normal(size=(9, 6)), top_n)


def test_a_cohort_of_another_width_is_refused() -> None:
    with pytest.raises(DataError, match="width 3 cannot be scored with a cohort of width 4"):
        cohort_statistics(np.eye(3), np.eye(4), 2)


def test_collapsed_cohort_is_refused() -> None:
    cohort = np.tile([1.0, 2.0, 3.0], (5, 1))
    with pytest.raises(DataError, match="3 highest cohort cosines of embedding 0 are all equal"):
        cohort_statistics(np.eye(3), cohort, 3)
