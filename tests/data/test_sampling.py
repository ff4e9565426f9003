from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from speaker_verification.common.errors import ParameterError
from speaker_verification.data.sampling import EpochBatches, SamplingSettings, UtteranceOrder


def epoch_batches(
    num_utterances: int, batch_size: int, steps_per_epoch: int | None, seed: int
) -> EpochBatches:
    speakers = np.arange(num_utterances) % 7
    order = UtteranceOrder(speakers, SamplingSettings(), batch_size, seed)
    return EpochBatches(order, batch_size, steps_per_epoch)


def order_of(
    counts: list[int], batch_size: int = 2, seed: int = 0, num_speeds: int = 1, **sampling: Any
) -> UtteranceOrder:
    """Order of a corpus with so many utterances of each speaker, mixed."""
    speakers = np.random.default_rng(9).permutation(np.repeat(np.arange(len(counts)), counts))
    return UtteranceOrder(speakers, SamplingSettings(**sampling), batch_size, seed, num_speeds)


def keys_in(batches: np.ndarray) -> list[tuple[int, int]]:
    """Keys of all batches, one after the other."""
    return [(number, row) for number, row in batches.reshape(-1, 2).tolist()]


def test_a_pass_visits_every_row_once_and_drops_only_an_incomplete_batch() -> None:
    whole = epoch_batches(12, batch_size=4, steps_per_epoch=None, seed=1)
    assert len(whole) == 3
    epoch = whole.batches(5)
    assert epoch.shape == (3, 4, 2)
    assert sorted(keys_in(epoch)) == [(5, row) for row in range(12)]

    with_rest = epoch_batches(14, batch_size=4, steps_per_epoch=None, seed=1)
    assert len(with_rest) == 3
    keys = keys_in(with_rest.batches(0))
    assert len(set(keys)) == 12
    assert {number for number, _ in keys} == {0}


def test_order_differs_between_epochs_and_seeds_and_is_the_same_for_both_given() -> None:
    batches = epoch_batches(50, batch_size=10, steps_per_epoch=None, seed=1)
    rows = [batches.batches(epoch)[..., 1] for epoch in (0, 1)]
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(batches.batches(1), epoch_batches(50, 10, None, seed=1).batches(1))
    assert not np.array_equal(batches.batches(1), epoch_batches(50, 10, None, seed=2).batches(1))


@pytest.mark.parametrize("num_utterances", [3, 10, 100])
def test_epochs_of_fixed_length_run_on_through_the_reshuffled_corpus(num_utterances: int) -> None:
    batches = epoch_batches(num_utterances, batch_size=4, steps_per_epoch=3, seed=2)
    assert len(batches) == 3
    keys = [key for epoch in range(50) for key in keys_in(batches.batches(epoch))]
    assert len(keys) == 50 * 12
    assert len(set(keys)) == len(keys)
    passes = [keys[at : at + num_utterances] for at in range(0, len(keys), num_utterances)]
    for number, one_pass in enumerate(passes):
        assert {pass_number for pass_number, _ in one_pass} == {number}
        if len(one_pass) == num_utterances:
            assert sorted(row for _, row in one_pass) == list(range(num_utterances))
    orders = {tuple(row for _, row in one_pass) for one_pass in passes}
    assert len(orders) > min(len(passes), 4) - 1  # reshuffled: of three rows there are six orders


def test_a_corpus_smaller_than_a_batch_is_refused_with_both_numbers() -> None:
    with pytest.raises(ParameterError, match=r"512.*300"):
        epoch_batches(300, batch_size=512, steps_per_epoch=None, seed=0)
    assert len(epoch_batches(300, batch_size=512, steps_per_epoch=2, seed=0).batches(0)[1]) == 512


@pytest.mark.parametrize(
    ("counts", "batch_size", "num_batches"),
    [
        ([3, 3, 3, 3], 4, 3),  # everything fits
        ([3, 3, 3, 3], 2, 6),
        ([10, 2, 2], 2, 4),  # the large speaker meets the four utterances of the others
        ([10, 1, 1], 3, 1),
        ([5, 4, 3, 2, 1], 4, 3),  # 3 + 3 + 3 + 2 + 1 is 12; for a fourth 4 + 4 + 3 + 2 + 1 is below 16
    ],
)
def test_batches_of_different_speakers_are_as_many_as_can_be(
    counts: list[int], batch_size: int, num_batches: int
) -> None:
    order = order_of(counts, batch_size, unique_speakers=True)
    assert len(order) == num_batches * batch_size
    for number in range(20):
        rows = order.rows(number)
        assert len(set(rows.tolist())) == len(rows) == len(order)
        for batch in order.classes(rows).reshape(num_batches, batch_size):
            assert len(set(batch.tolist())) == batch_size


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_holds_a_speaker_twice_in_a_corpus_of_any_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 60, size=40).tolist()
    order = order_of(counts, 16, seed, unique_speakers=True, max_utterances_per_speaker=30)
    batches = EpochBatches(order, batch_size=32, steps_per_epoch=7)  # two forward passes a step
    sampled: Counter[int] = Counter()
    for epoch in range(60):
        for keys in batches.batches(epoch):
            for half in (keys[:16], keys[16:]):
                assert len({*order.classes(half[:, 1]).tolist()}) == 16
            sampled.update(keys[:, 1].tolist())
    assert len(sampled) == sum(counts)


def test_batches_of_different_speakers_mix_all_of_them() -> None:
    order = order_of([20] * 30, 5, unique_speakers=True)
    met = {
        (int(a), int(b))
        for number in range(10)
        for batch in order.classes(order.rows(number)).reshape(-1, 5)
        for a in batch
        for b in batch
        if a < b
    }
    assert len(met) == 30 * 29 / 2


def test_a_pass_holds_no_more_of_a_speaker_than_it_may() -> None:
    order = order_of([9, 2, 5], max_utterances_per_speaker=4)
    assert len(order) == 4 + 2 + 4
    sampled: set[int] = set()
    for number in range(30):
        rows = order.rows(number)
        assert np.bincount(order.classes(rows)).tolist() == [4, 2, 4]
        assert len(set(rows.tolist())) == 10
        sampled |= set(rows.tolist())
    assert sampled == set(range(16))  # every utterance has its turn


@pytest.mark.parametrize("unique_speakers", [False, True])
def test_an_order_depends_on_seed_and_pass_alone(unique_speakers: bool) -> None:
    sampling = {"unique_speakers": unique_speakers, "max_utterances_per_speaker": 5}
    order, again = order_of([8] * 6, **sampling), order_of([8] * 6, **sampling)
    later = order.rows(4).tolist()
    assert later == again.rows(4).tolist()
    assert order.rows(3).tolist() != later
    assert order_of([8] * 6, seed=1, **sampling).rows(4).tolist() != later


def test_a_batch_of_more_than_all_speakers_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"'batch_size' is 4: .* 3 training speakers$"):
        order_of([5, 5, 5], batch_size=4, unique_speakers=True)


def test_a_pass_holds_every_utterance_at_every_speed_where_that_is_asked_for() -> None:
    order = order_of([3, 1, 2], num_speeds=3, every_speed=True)
    assert len(order) == 18
    rows = order.rows(0)
    assert sorted(rows.tolist()) == list(range(18))
    assert rows.tolist() != order.rows(1).tolist()
    assert np.bincount(order.classes(rows)).tolist() == [3, 1, 2] * 3
    (once,) = {*order.classes(np.array([4, 10, 16])) % 3}  # utterance 4 at three speeds: one speaker
    assert order.classes(np.array([4, 10, 16])).tolist() == [once, once + 3, once + 6]
    assert len(order_of([3, 1, 2], num_speeds=3)) == 6


def test_a_speaker_at_another_speed_counts_as_another_one() -> None:
    limits = {"every_speed": True, "max_utterances_per_speaker": 2}
    order = order_of([9, 2, 5], num_speeds=2, **limits)
    assert np.bincount(order.classes(order.rows(3))).tolist() == [2, 2, 2, 2, 2, 2]
    different = order_of([9, 2, 5], 6, num_speeds=2, unique_speakers=True, **limits)
    assert len(different) == 12
    for batch in different.classes(different.rows(3)).reshape(2, 6):
        assert sorted(batch.tolist()) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ParameterError, match=r"'batch_size' is 7: .* 3 training speakers times 2 speeds$"):
        order_of([9, 2, 5], 7, num_speeds=2, unique_speakers=True, **limits)
