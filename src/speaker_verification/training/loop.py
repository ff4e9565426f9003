"""The training loop, the same for all phases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from speaker_verification.errors import UserError
from speaker_verification.models.margin_head import Margins, SubcentreMarginHead
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.tables import LEARNING_CURVE
from speaker_verification.training.averaging import MovingAverage, reestimate_statistics
from speaker_verification.training.checkpoints import BestCheckpoints
from speaker_verification.training.examples import TrainingExamples
from speaker_verification.training.optimiser import (
    choose_trained,
    make_optimiser,
    parameter_groups,
    scale_gradients,
    set_learning_rate,
)
from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.sampling import EpochBatches, Key, UtteranceOrder
from speaker_verification.training.schedules import margin, top_k_penalty
from speaker_verification.training.tally import EpochTally, Metrics, progress_bar, readable

logger = logging.getLogger(__name__)


class TrainingError(UserError):
    """Training cannot go on."""


def train(
    phase: PhaseSettings,
    model: SpeakerModel,
    head: SubcentreMarginHead,
    examples: TrainingExamples,
    regularise: Callable[[Tensor], Tensor],
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
        regularise: gives the loss to descend for the margin head's (see regularisation.py).
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
        ParameterError: the corpus is smaller than one step, or has too few speakers for a batch of
            different ones; or the phase is to be compiled, and nothing can be.
    """
    device = model.device
    order = UtteranceOrder(examples.speakers, phase.sampling, phase.batch_size, seed)
    steps = EpochBatches(order, phase.examples_per_step, phase.steps_per_epoch)
    steps_per_epoch = len(steps)
    choose_trained(model.frontend, phase.frontend)
    if phase.compile:
        model.frontend.compile_blocks()
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = make_optimiser(parameter_groups(model, head, phase.rate_factors), phase.optimiser)
    both = nn.ModuleDict({"model": model, "head": head})
    average = MovingAverage(phase.averaging.newest_weight)
    checkpoints = BestCheckpoints(folder, phase.keep_checkpoints)
    curve: list[dict[str, Any]] = []

    def waveforms_of(epoch: int) -> Iterator[Tensor]:
        for waveforms, _, _ in _loader(examples, steps.batches(epoch - 1), phase):
            yield waveforms

    def record(epoch: int, metrics: Metrics) -> None:
        curve.extend({"epoch": epoch, "metric": name, "value": value} for name, value in metrics.items())
        on_epoch(epoch, metrics)
        logger.info("epoch %d/%d: %s", epoch, phase.epochs, readable(metrics))

    def finish_epoch(epoch: int, metrics: Metrics, mean: Any) -> None:
        metrics |= validate(model, mean)
        if epoch or not phase.epochs:
            eer = metrics[f"{phase.rank_by}.eer"]
            checkpoints.offer(epoch, eer, model, head, {**run, "epoch": epoch, "metrics": metrics})
        record(epoch, metrics)

    finish_epoch(0, {}, None)
    for epoch in range(1, phase.epochs + 1):
        started = time.perf_counter()
        model.train()
        model.frontend.train(phase.frontend_mode == "training")
        tally = EpochTally(model.embedding_size, device)
        loader = _loader(examples, steps.batches(epoch - 1), phase)
        with progress_bar(f"epoch {epoch}/{phase.epochs}", steps_per_epoch) as advance:
            for index in range(steps_per_epoch):
                step = (epoch - 1) * steps_per_epoch + index
                rate = phase.learning_rate_at(step, steps_per_epoch)
                set_learning_rate(optimiser, rate)
                target = margin(step, steps_per_epoch, phase.margin)
                margins = Margins(target, phase.margin.top_k, top_k_penalty(target, phase.margin))
                step_rows: list[int] = []
                for _ in range(phase.accumulation_steps):
                    waveforms, labels, rows = next(loader)
                    waveforms, labels = waveforms.to(device), labels.to(device)
                    step_rows += rows.tolist()
                    with torch.autocast(device.type, torch.bfloat16, enabled=phase.precision == "bfloat16"):
                        embeddings = model(waveforms)
                    output = head(embeddings, labels, margins)
                    loss = regularise(output.loss)
                    _require_finite("loss", loss, step, examples, step_rows)
                    (loss / phase.accumulation_steps).backward()
                    tally.add(output.loss.detach(), output.predictions, labels, embeddings)
                scale_gradients(model.frontend.parameters(), phase.frontend_gradient_factor)
                norm = nn.utils.clip_grad_norm_(parameters, phase.gradient_clip_norm or math.inf)
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
        if epoch <= phase.epochs - phase.averaging.last_epochs:
            finish_epoch(epoch, metrics, tally.mean_embedding())
        else:
            average.update(both)
            with average.applied(both):
                finish_epoch(epoch, metrics, reestimate_statistics(model, waveforms_of(epoch)))
    if phase.epochs and phase.average_best > 1:
        checkpoints.load_average(model, head, phase.average_best)
        metrics = validate(model, reestimate_statistics(model, waveforms_of(phase.epochs)))
        eer = metrics[f"{phase.rank_by}.eer"]
        checkpoints.put_first(
            phase.epochs, eer, model, head, {**run, "epoch": phase.epochs, "metrics": metrics}
        )
        record(phase.epochs, {f"average.{name}": value for name, value in metrics.items()})
    return LEARNING_CURVE.conform(pd.DataFrame(curve))


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
