"""The training loop, the same for all phases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import f1_score
from torch import Tensor
from torch.utils.data import DataLoader

from speaker_verification.errors import UserError
from speaker_verification.models.margin_head import Margins, SubcentreMarginHead
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.tables import LEARNING_CURVE
from speaker_verification.training.checkpoints import BestCheckpoints
from speaker_verification.training.examples import EpochBatches, Key, TrainingExamples
from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.schedules import margin, top_k_penalty

logger = logging.getLogger(__name__)

Metrics = dict[str, float]


class TrainingError(UserError):
    """Training cannot go on."""


def train(
    phase: PhaseSettings,
    model: SpeakerModel,
    head: SubcentreMarginHead,
    examples: TrainingExamples,
    validate: Callable[[SpeakerModel, Any], Metrics],
    folder: Path,
    run: dict[str, Any],
    seed: int,
    on_epoch: Callable[[int, Metrics], None],
) -> pd.DataFrame:
    """Train a phase and keep its best epochs.

    Args:
        phase: settings.
        model: trained in place, on its device.
        head: trained in place, on the same device.
        examples: what an epoch draws from.
        validate: takes the model and the mean embedding (E,) of the epoch's training steps (None before the
            first) and gives error rates; `{phase.rank_by}.eer` among them ranks the epoch.
        folder: receives the best epochs (see checkpoints.py).
        run: plain values to store in every checkpoint.
        seed: of the order of utterances.
        on_epoch: told the metrics of every epoch; epoch 0 is the state before the first step.

    Returns:
        LEARNING_CURVE table.

    Raises:
        TrainingError: the loss or a gradient is not finite; the utterances of the step are named.
        DataError: the corpus is smaller than one step.
    """
    device = model.device
    steps = EpochBatches(len(examples), phase.examples_per_step, phase.steps_per_epoch, seed)
    steps_per_epoch = len(steps)
    model.frontend.requires_grad_(phase.frontend == "trained")
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = torch.optim.Adam(
        parameters, lr=phase.learning_rate.maximum, weight_decay=phase.optimiser.weight_decay
    )
    checkpoints = BestCheckpoints(folder, phase.keep_checkpoints)
    curve: list[dict[str, Any]] = []

    def finish_epoch(epoch: int, metrics: Metrics, mean: Any) -> None:
        metrics |= validate(model, mean)
        if epoch or not phase.epochs:
            checkpoints.offer(
                epoch,
                metrics[f"{phase.rank_by}.eer"],
                model,
                head,
                {**run, "epoch": epoch, "metrics": metrics},
            )
        curve.extend({"epoch": epoch, "metric": name, "value": value} for name, value in metrics.items())
        on_epoch(epoch, metrics)
        logger.info("epoch %d/%d: %s", epoch, phase.epochs, _readable(metrics))

    finish_epoch(0, {}, None)
    for epoch in range(1, phase.epochs + 1):
        started = time.perf_counter()
        model.train()
        if phase.frontend_mode == "evaluation":
            model.frontend.eval()
        tally = _Tally(model.embedding_size, device)
        loader = _loader(examples, steps.batches(epoch - 1), phase)
        with _progress_bar(f"epoch {epoch}/{phase.epochs}", steps_per_epoch) as advance:
            for index in range(steps_per_epoch):
                step = (epoch - 1) * steps_per_epoch + index
                rate = phase.learning_rate_at(step, steps_per_epoch)
                target = margin(step, steps_per_epoch, phase.margin)
                margins = Margins(target, phase.margin.top_k, top_k_penalty(target, phase.margin))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                step_rows: list[int] = []
                for _ in range(phase.accumulation_steps):
                    waveforms, labels, rows = next(loader)
                    waveforms, labels = waveforms.to(device), labels.to(device)
                    step_rows += rows.tolist()
                    with torch.autocast(device.type, torch.bfloat16, enabled=phase.precision == "bfloat16"):
                        embeddings = model(waveforms)
                    output = head(embeddings, labels, margins)
                    _require_finite("loss", output.loss, step, examples, step_rows)
                    (output.loss / phase.accumulation_steps).backward()
                    tally.add(output.loss.detach(), output.predictions, labels, embeddings)
                norm = torch.nn.utils.clip_grad_norm_(parameters, phase.gradient_clip_norm or math.inf)
                _require_finite("gradient", norm, step, examples, step_rows)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                advance(loss=float(output.loss.detach()))
        metrics = tally.metrics() | {
            "learning_rate": rate,
            "margin": target,
            "gradient_norm": float(norm),
            "seconds": time.perf_counter() - started,
        }
        finish_epoch(epoch, metrics, tally.mean_embedding())
    return LEARNING_CURVE.conform(pd.DataFrame(curve))


class _Tally:
    """Sums over the examples of an epoch."""

    def __init__(self, embedding_size: int, device: torch.device) -> None:
        self.loss = 0.0
        self.embeddings = torch.zeros(embedding_size, dtype=torch.float64, device=device)
        self.labels: list[int] = []
        self.predictions: list[int] = []

    def add(self, loss: Tensor, predictions: Tensor, labels: Tensor, embeddings: Tensor) -> None:
        self.loss += float(loss) * len(labels)
        self.embeddings += embeddings.detach().double().sum(dim=0)
        self.labels += labels.tolist()
        self.predictions += predictions.tolist()

    def metrics(self) -> Metrics:
        count = len(self.labels)
        hits = sum(a == b for a, b in zip(self.labels, self.predictions, strict=True))
        return {
            "loss": self.loss / count,
            "accuracy": 100 * hits / count,
            "macro_f1": 100 * float(f1_score(self.labels, self.predictions, average="macro")),
        }

    def mean_embedding(self) -> Any:
        return (self.embeddings / len(self.labels)).cpu().numpy()


def _loader(
    examples: TrainingExamples, batches: list[list[Key]], phase: PhaseSettings
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of waveforms (B, samples), labels (B,) and utterance rows (B,), one per forward pass."""
    size = phase.batch_size
    passes = [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]
    return iter(DataLoader(examples, batch_sampler=passes, num_workers=phase.num_workers))


def _require_finite(
    what: str, value: Tensor, step: int, examples: TrainingExamples, rows: Sequence[int]
) -> None:
    if not torch.isfinite(value):
        names = ", ".join(examples.utterance_ids(rows))
        raise TrainingError(
            f"the {what} is {float(value.detach())} at step {step}: lower the learning rate or look at these "
            f"utterances: {names}"
        )


@contextmanager
def _progress_bar(description: str, total: int) -> Iterator[Callable[..., None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(description, total=total, loss=math.nan)
        yield lambda loss: progress.update(task, advance=1, loss=loss)


def _readable(metrics: Metrics) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
