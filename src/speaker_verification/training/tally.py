"""What an epoch of training adds up to, and how it shows while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import f1_score
from torch import Tensor

Metrics = dict[str, float]


class EpochTally:
    """Sums over the examples of an epoch."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin an epoch."""
        self.loss = 0.0
        self.labels: list[int] = []
        self.predictions: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {
            "loss": self.loss,
            "labels": torch.tensor(self.labels, dtype=torch.int32),
            "predictions": torch.tensor(self.predictions, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from sums."""
        self.loss = state["loss"]
        self.labels = state["labels"].tolist()
        self.predictions = state["predictions"].tolist()

    def add(self, loss: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Take in a forward pass: its mean loss, and per example the rest."""
        self.loss += float(loss) * len(labels)
        self.labels += labels.tolist()
        self.predictions += predictions.tolist()

    def metrics(self) -> Metrics:
        """Mean loss, accuracy and macro F1 in %."""
        count = len(self.labels)
        hits = sum(a == b for a, b in zip(self.labels, self.predictions, strict=True))
        return {
            "loss": self.loss / count,
            "accuracy": 100 * hits / count,
            "macro_f1": 100 * float(f1_score(self.labels, self.predictions, average="macro")),
        }


@contextmanager
def progress_bar(description: str, total: int, completed: int) -> Iterator[Callable[..., None]]:
    """A bar for the console; gives a function that is told the loss of every step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(description, total=total, completed=completed, loss=math.nan)
        yield lambda loss: progress.update(task, advance=1, loss=loss)


def readable(metrics: Metrics) -> str:
    """Metrics in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
