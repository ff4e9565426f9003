"""Batches for the training: read and augmented ahead of it, by worker processes where there are any."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speaker_verification.errors import UserError
from speaker_verification.training.examples import TrainingExamples
from speaker_verification.training.sampling import EpochBatches, Key


class Batch(NamedTuple):
    """What a forward pass takes.

    Attributes:
        waveforms: (B, samples) float32, on the training device.
        labels: (B,), on the training device.
        rows: (B,) utterance rows, on the CPU.
    """

    waveforms: Tensor
    labels: Tensor
    rows: Tensor


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

    def _delivered(self, loaded: Iterator[Batch | UserError]) -> Iterator[Batch]:
        for _ in range(len(self._keys)):
            started = time.perf_counter()
            batch = next(loaded)
            if isinstance(batch, UserError):
                raise batch
            waveforms = batch.waveforms.to(self._device, non_blocking=True)
            labels = batch.labels.to(self._device, non_blocking=True)
            self.waited_seconds += time.perf_counter() - started
            yield Batch(waveforms, labels, batch.rows)


class _BatchSource(Dataset["Batch | UserError"]):
    """Whole batches by their keys; an error for people is handed over, since raising would wrap it."""

    def __init__(self, examples: TrainingExamples) -> None:
        self._examples = examples

    def __getitem__(self, keys: Sequence[Key]) -> Batch | UserError:
        try:
            waveforms, labels, rows = zip(*(self._examples[key] for key in keys), strict=True)
        except UserError as error:
            return error
        return Batch(torch.stack(waveforms), torch.tensor(labels), torch.tensor(rows))
