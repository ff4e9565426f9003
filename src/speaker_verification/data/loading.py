"""Loading of training batches, prefetched by worker processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speaker_verification.audio.batched_augmentation import BatchedAugmentation, augment_batch, collate
from speaker_verification.common.errors import UserError
from speaker_verification.data.examples import Key, TrainingExamples
from speaker_verification.data.sampling import EpochBatches, Keys


class Batch(NamedTuple):
    """Input of a forward pass.

    Attributes:
        waveforms: (B, samples) float32, on the training device.
        labels: (B,), on the training device.
        keys: (B, 2) pass numbers and utterance rows, on the CPU.
    """

    waveforms: Tensor
    labels: Tensor
    keys: Tensor


class BatchLoader:
    """Batches of any epoch from any step on, with workers that persist across epochs.

    Attributes:
        waited_seconds: time in s that training has waited for batches since the last call of `batches`.
    """

    def __init__(
        self,
        examples: TrainingExamples,
        steps: EpochBatches,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        share: slice = slice(None),
    ) -> None:
        """Prepare the loading; nothing is read yet.

        Args:
            examples: training examples.
            steps: examples of every optimiser step.
            batch_size: examples of a forward pass; a step has as many passes as it needs.
            num_workers: number of worker processes; 0 reads in this one, on demand.
            device: device of the batches.
            share: examples of every forward pass that are loaded, of several processes those of this one.
        """
        self.waited_seconds = 0.0
        self._steps = steps
        self._batch_size = batch_size
        self._device = device
        self._share = share
        self._crop_lengths = examples.crop_lengths
        self._keys: list[tuple[Keys, int]] = []  # of every forward pass, with the length of its crops
        self._loader = DataLoader(
            _BatchSource(examples),
            sampler=self._keys,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # the loader would draw from the one of the training
        )

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterator over the batches of an epoch; it invalidates that of an earlier call.

        Args:
            epoch: counted from 0.
            first_step: number of optimiser steps to skip, of which nothing is read.

        Returns:
            A batch for every forward pass.

        Raises:
            DataError: (during iteration) a file cannot be read; it is named.
        """
        size = self._batch_size
        steps = self._steps.batches(epoch)[first_step:]
        self._keys[:] = [
            (keys[at : at + size][self._share], self._crop_lengths.of_step(step))
            for step, keys in enumerate(steps, start=epoch * len(self._steps) + first_step)
            for at in range(0, len(keys), size)
        ]
        self.waited_seconds = 0.0
        return self._delivered(iter(self._loader))

    def _delivered(self, loaded: Iterator[_Drawn | UserError]) -> Iterator[Batch]:
        for _ in range(len(self._keys)):
            started = time.perf_counter()
            drawn = next(loaded)
            if isinstance(drawn, UserError):
                raise drawn
            waveforms, labels, taken = drawn.batch
            waveforms = waveforms.to(self._device, non_blocking=True)
            labels = labels.to(self._device, non_blocking=True)
            if drawn.augmentation is not None:
                waveforms = augment_batch(waveforms, drawn.augmentation.to(self._device))
            self.waited_seconds += time.perf_counter() - started
            yield Batch(waveforms, labels, taken)


class _Drawn(NamedTuple):
    """Batch on the CPU, with the augmentation still to apply."""

    batch: Batch
    augmentation: BatchedAugmentation | None


class _BatchSource(Dataset["_Drawn | UserError"]):
    """Whole batches by their keys; a UserError is returned, since a worker would wrap a raised one."""

    def __init__(self, examples: TrainingExamples) -> None:
        self._examples = examples
        augmenter = examples.augmenter
        self._deferring = augmenter if augmenter and augmenter.settings.on_training_device else None

    def __getitem__(self, keys_and_length: tuple[Keys, int]) -> _Drawn | UserError:
        keys, length = keys_and_length
        drawn_keys: list[Key] = [(pass_number, row, length) for pass_number, row in keys.tolist()]
        try:
            if self._deferring is None:
                waves, labels, _ = zip(*(self._examples[key] for key in drawn_keys), strict=True)
                waveforms, augmentation = torch.stack(waves), None
            else:
                crops, labels, drawn = zip(*(self._examples.draw(key) for key in drawn_keys), strict=True)
                waveforms = torch.from_numpy(np.stack(crops))
                augmentation = collate(drawn, waveforms.shape[1], self._deferring.settings)
        except UserError as error:
            return error
        return _Drawn(Batch(waveforms, torch.tensor(labels), torch.from_numpy(keys)), augmentation)
