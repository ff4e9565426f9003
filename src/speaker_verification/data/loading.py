"""Batches for the training: read and augmented ahead of it, by worker processes where there are any."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speaker_verification.audio.batched_augmentation import BatchedAugmentation, augment_batch, collate
from speaker_verification.common.errors import UserError
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.sampling import EpochBatches, Key


class Batch(NamedTuple):
    """What a forward pass takes.

    Attributes:
        waveforms: (B, samples) float32, on the training device.
        labels: (B,), on the training device.
        keys: (B, 2) pass numbers and utterance rows, on the CPU.
    """

    waveforms: Tensor
    labels: Tensor
    keys: Tensor


class BatchLoader:
    """The batches of any epoch, from any step on; the workers stay from one epoch to the next.

    Attributes:
        waited_seconds: what the training has waited for batches since the last call of `batches`.
    """

    def __init__(
        self,
        examples: TrainingExamples,
        steps: EpochBatches,
        batch_size: int,
        num_workers: int,
        device: torch.device,
    ) -> None:
        """Plan the loading; nothing is read yet.

        Args:
            examples: what is read.
            steps: which examples every optimiser step takes.
            batch_size: examples of a forward pass; a step is gone through in as many as it needs.
            num_workers: processes that read; 0: this one, when a batch is asked for.
            device: where the batches are wanted.
        """
        self.waited_seconds = 0.0
        self._steps = steps
        self._batch_size = batch_size
        self._device = device
        self._keys: list[list[Key]] = []
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
        """Begin to load; the iterator of an earlier call must not be used any more.

        Args:
            epoch: counted from 0.
            first_step: optimiser steps of the epoch that are left out, without reading anything of them.

        Returns:
            A batch for every forward pass.

        Raises:
            DataError: (when it is iterated) a file cannot be read; it is named.
        """
        size = self._batch_size
        steps = self._steps.batches(epoch)[first_step:]
        self._keys[:] = [step[at : at + size] for step in steps for at in range(0, len(step), size)]
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
    """A batch on the CPU, and what is still to be done to it."""

    batch: Batch
    augmentation: BatchedAugmentation | None


class _BatchSource(Dataset["_Drawn | UserError"]):
    """Whole batches by their keys; an error for people is handed over, since raising would wrap it."""

    def __init__(self, examples: TrainingExamples) -> None:
        self._examples = examples
        augmenter = examples.augmenter
        self._deferring = augmenter if augmenter and augmenter.settings.on_training_device else None

    def __getitem__(self, keys: Sequence[Key]) -> _Drawn | UserError:
        try:
            if self._deferring is None:
                waves, labels, _ = zip(*(self._examples[key] for key in keys), strict=True)
                waveforms, augmentation = torch.stack(waves), None
            else:
                crops, labels, drawn = zip(*(self._examples.draw(key) for key in keys), strict=True)
                waveforms = torch.from_numpy(np.stack(crops))
                normalise_peak = self._deferring.settings.normalise_peak
                augmentation = collate(drawn, waveforms.shape[1], normalise_peak)
        except UserError as error:
            return error
        return _Drawn(Batch(waveforms, torch.tensor(labels), torch.tensor(keys)), augmentation)
