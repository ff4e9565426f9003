from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits

from speaker_verification.audio import utterance_audio
from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.errors import DataError
from speaker_verification.data.crop_lengths import CropLengths
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.loading import Batch, BatchLoader
from speaker_verification.data.sampling import EpochBatches, SamplingSettings, UtteranceOrder

FACTORS = (1.0, 0.9, 1.1)
BATCH_SIZE = 3
STEPS = 5
PASSES = 2  # forward passes of a step


@pytest.fixture
def loader_of(
    utterances: pd.DataFrame, catalogs: tuple[pd.DataFrame, pd.DataFrame]
) -> Callable[..., BatchLoader]:
    def make(
        num_workers: int = 0,
        crop_seconds: float | tuple[float, float] = 0.2,
        share: slice = slice(None),
        **augmentation: Any,
    ) -> BatchLoader:
        augmenter = Augmenter(*catalogs, AugmentationSettings.parse(augmentation, "augmentation"))
        examples = TrainingExamples(utterances, augmenter, crop_seconds, FACTORS, seed=7)
        order = UtteranceOrder(examples.speakers, SamplingSettings(), BATCH_SIZE, seed=7)
        steps = EpochBatches(order, BATCH_SIZE * PASSES, STEPS)
        return BatchLoader(examples, steps, BATCH_SIZE, num_workers, torch.device("cpu"), share)

    return make


def assert_same(
    ours: Iterator[Batch], theirs: Iterator[Batch], num_batches: int, num_samples: int = 3200
) -> None:
    """Bit for bit."""
    pairs = list(zip(ours, theirs, strict=True))
    assert len(pairs) == num_batches
    for one, other in pairs:
        assert one.waveforms.shape == (BATCH_SIZE, num_samples)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("on_training_device", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_bit_of_any_epoch(
    loader_of: Callable[..., BatchLoader], num_workers: int, on_training_device: bool
) -> None:
    alone = loader_of(0, on_training_device=on_training_device)
    shared = loader_of(num_workers, on_training_device=on_training_device)
    for epoch in (0, 1, 0):
        assert_same(alone.batches(epoch), shared.batches(epoch), STEPS * PASSES)


@pytest.mark.parametrize("on_training_device", [False, True])
def test_all_examples_of_a_step_have_the_length_that_is_drawn_for_it(
    loader_of: Callable[..., BatchLoader], on_training_device: bool
) -> None:
    options = {"crop_seconds": (0.1, 0.3), "on_training_device": on_training_device}
    expected = [CropLengths.of((0.1, 0.3), seed=7).of_step(step) for step in range(2 * STEPS)]
    whole = [batch for epoch in (0, 1) for batch in loader_of(**options).batches(epoch)]
    assert [batch.waveforms.shape for batch in whole] == [
        (BATCH_SIZE, length) for length in expected for _ in range(PASSES)
    ]
    resumed = list(loader_of(2, **options).batches(1, first_step=2))
    shared = list(loader_of(share=slice(1, 3), **options).batches(1))
    for own, other in zip(resumed, whole[PASSES * (STEPS + 2) :], strict=True):
        assert torch.equal(own.waveforms, other.waveforms)
    for own, other in zip(shared, whole[PASSES * STEPS :], strict=True):
        torch.testing.assert_close(own.waveforms, other.waveforms[1:3], rtol=1e-5, atol=1e-6)


def test_memory_for_clips_changes_no_bit(loader_of: Callable[..., BatchLoader]) -> None:
    kept, read = loader_of(cache_megabytes=1), loader_of(cache_megabytes=0)
    for epoch in range(4):
        assert_same(kept.batches(epoch), read.batches(epoch), STEPS * PASSES)


def test_batches_mixed_on_the_training_device_are_those_of_the_workers(
    loader_of: Callable[..., BatchLoader],
) -> None:
    augmented_somewhere = False
    pairs = zip(
        loader_of(probability=0.8).batches(0),
        loader_of(probability=0.8, on_training_device=True).batches(0),
        loader_of(probability=0.0).batches(0),
        strict=True,
    )
    for worker, device, clean in pairs:
        torch.testing.assert_close(device.waveforms, worker.waveforms, rtol=1e-5, atol=1e-6)
        assert torch.equal(device.labels, worker.labels)
        assert torch.equal(device.keys, worker.keys)
        augmented_somewhere |= not torch.equal(device.waveforms, clean.waveforms)
    assert augmented_somewhere


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_begins_at_any_step_and_reads_nothing_of_those_before(
    loader_of: Callable[..., BatchLoader], monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    whole = list(loader_of().batches(1))
    read: list[str] = []

    def note(path: str, *place: int) -> Any:
        read.append(path)
        return real(path, *place)

    real = utterance_audio.read_segment
    monkeypatch.setattr(utterance_audio, "read_segment", note)
    rest = list(loader_of(num_workers).batches(1, first_step=3))
    assert_same(iter(rest), iter(whole[3 * PASSES :]), (STEPS - 3) * PASSES)
    if not num_workers:
        assert len(read) == (STEPS - 3) * PASSES * BATCH_SIZE


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_next_epoch_begins_where_an_unfinished_one_was_left(
    loader_of: Callable[..., BatchLoader], num_workers: int
) -> None:
    loader = loader_of(num_workers)
    next(loader.batches(0))
    assert_same(loader.batches(1), loader_of().batches(1), STEPS * PASSES)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_draws_nothing_from_the_generator_of_the_training(
    loader_of: Callable[..., BatchLoader], num_workers: int
) -> None:
    before = torch.random.get_rng_state()
    list(loader_of(num_workers).batches(0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_file_is_named_in_one_line_whoever_reads_it(
    utterances: pd.DataFrame, num_workers: int
) -> None:
    gone = utterances.assign(path=utterances["path"].str.replace("00001.wav", "gone.wav"))
    examples = TrainingExamples(gone, None, 0.2, [1.0], seed=0)
    order = UtteranceOrder(examples.speakers, SamplingSettings(), BATCH_SIZE, seed=0)
    steps = EpochBatches(order, BATCH_SIZE, None)
    loader = BatchLoader(examples, steps, BATCH_SIZE, num_workers, torch.device("cpu"))
    with pytest.raises(DataError, match=r"^\S+gone\.wav: no such file$"):
        list(loader.batches(0))


def test_waiting_is_counted_anew_for_every_epoch(loader_of: Callable[..., BatchLoader]) -> None:
    loader = loader_of()
    list(loader.batches(0))
    waited = loader.waited_seconds
    assert waited > 0
    batches = loader.batches(1)
    assert loader.waited_seconds == 0
    next(batches)
    assert loader.waited_seconds > 0


def test_the_number_of_threads_changes_no_bit(loader_of: Callable[..., BatchLoader]) -> None:
    before = torch.get_num_threads()
    epochs = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        with threadpool_limits(num_threads):
            epochs.append(list(loader_of(crop_seconds=2.0, probability=0.9).batches(0)))
    torch.set_num_threads(before)
    for other in epochs[1:]:
        assert_same(iter(other), iter(epochs[0]), STEPS * PASSES, num_samples=32_000)
