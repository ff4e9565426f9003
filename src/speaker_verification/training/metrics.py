"""Per-epoch training metrics and the progress bar."""

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


class EpochMetrics:
    """Running training metrics of an epoch."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset for the next epoch."""
        self.loss = 0.0
        self.labels: list[int] = []
        self.predictions: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        """State of an unfinished epoch."""
        return {
            "loss": self.loss,
            "labels": torch.tensor(self.labels, dtype=torch.int32),
            "predictions": torch.tensor(self.predictions, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of an unfinished epoch."""
        self.loss = state["loss"]
        self.labels = state["labels"].tolist()
        self.predictions = state["predictions"].tolist()

    def add(self, loss: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Accumulate a forward pass: mean loss, and (B,) predicted and true classes."""
        self.loss += float(loss) * len(labels)
        self.labels += labels.tolist()
        self.predictions += predictions.tolist()

    def compute(self) -> Metrics:
        """Mean loss, and accuracy and macro F1 in %."""
        count = len(self.labels)
        hits = sum(a == b for a, b in zip(self.labels, self.predictions, strict=True))
        return {
            "loss": self.loss / count,
            "accuracy": 100 * hits / count,
            "macro_f1": 100 * float(f1_score(self.labels, self.predictions, average="macro")),
        }


@contextmanager
def progress_bar(description: str, total: int, completed: int) -> Iterator[Callable[..., None]]:
    """Progress bar on the console; yields a function to call after every step with its loss."""
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


def format_metrics(metrics: Metrics) -> str:
    """Metrics as one line of text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
