"""Training metrics of an epoch, accumulated on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from speaker_verification.common.distributed import processes

Metrics = dict[str, float]


class EpochMetrics:
    """Running loss, accuracy and macro F1 over the examples of an epoch, of all processes together.

    All sums stay in their process and on its device until `compute` reads them, once an epoch.

    Args:
        num_classes: number of classes C.
        device: device of the losses and predictions.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        # Per class: examples of it, predictions of it, and predictions of it that are right, (3, C).
        self._counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Reset for the next epoch."""
        self._loss.zero_()
        self._counts.zero_()

    def state_dict(self) -> dict[str, Any]:
        """State of an unfinished epoch, with the sums over all processes."""
        loss, counts = self._sums()
        return {"loss": loss, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of an unfinished epoch; the first process goes on from the sums of all."""
        self.clear()
        if not processes().is_first:
            return
        self._loss.copy_(state["loss"])
        self._counts.copy_(state["counts"])

    def add(self, loss: Tensor, predictions: Tensor | None, labels: Tensor) -> None:
        """Accumulate a forward pass.

        Args:
            loss: mean loss of the batch, without a gradient.
            predictions: (B,) predicted classes; None of a loss that predicts none.
            labels: (B,) true classes.
        """
        self._loss += loss.double() * len(labels)
        examples, predicted, hits = self._counts
        one = torch.ones_like(labels)
        examples.index_add_(0, labels, one)
        if predictions is None:
            return
        predicted.index_add_(0, predictions, one)
        hits.index_add_(0, labels, (predictions == labels).to(one.dtype))

    def compute(self) -> Metrics:
        """Mean loss over all examples since the last `clear`; accuracy and macro F1 in % of predictions."""
        total, all_counts = self._sums()
        loss, *counts = torch.cat([total[None], all_counts.double().flatten()]).tolist()
        examples, predicted, hits = np.reshape(counts, (3, -1))
        metrics = {"loss": float(loss / examples.sum())}
        if not predicted.any():
            return metrics
        seen = examples + predicted > 0
        f1 = 2 * hits[seen] / (examples + predicted)[seen]
        accuracy = float(100 * hits.sum() / examples.sum())
        return metrics | {"accuracy": accuracy, "macro_f1": 100 * float(f1.mean())}

    def _sums(self) -> tuple[Tensor, Tensor]:
        group = processes()
        return group.sum(self._loss.clone()), group.sum(self._counts.clone())
