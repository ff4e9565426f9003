"""The training loop, the same for all phases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from speaker_verification.common.locks import holds
from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.loading import BatchLoader
from speaker_verification.data.sampling import EpochBatches, Key, UtteranceOrder
from speaker_verification.models.heads.aam_softmax import Margins, SubcentreMarginHead
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.averaging import MovingAverage, reestimate_statistics
from speaker_verification.training.checkpoints import BestCheckpoints
from speaker_verification.training.failures import (
    defer_termination,
    report_failed_writes,
    report_out_of_memory,
    require_finite,
)
from speaker_verification.training.metrics import EpochMetrics, Metrics, format_metrics, progress_bar
from speaker_verification.training.optimiser import (
    choose_trained,
    make_optimiser,
    parameter_groups,
    scale_gradients,
    set_learning_rate,
)
from speaker_verification.training.phase import NEWEST_FIRST, PhaseSettings
from speaker_verification.training.resume import Origin, ResumePoint
from speaker_verification.training.schedules import margin, top_k_penalty

logger = logging.getLogger(__name__)


@holds("folder")
def train(
    phase: PhaseSettings,
    model: SpeakerModel,
    head: SubcentreMarginHead,
    examples: TrainingExamples,
    regularise: Callable[[Tensor], Tensor],
    validate: Callable[[SpeakerModel], Metrics],
    folder: Path,
    run: dict[str, Any],
    seed: int,
    on_epoch: Callable[[int, Metrics], None],
    origin: Origin,
    on_start: Callable[[list[dict[str, Any]]], None] = lambda _: None,
) -> pd.DataFrame:
    """Train a phase and keep its best epochs; go on from the last save where that was interrupted.

    Args:
        phase: settings.
        model: trained in place, on its device.
        head: trained in place, on the same device.
        examples: what an epoch draws from.
        regularise: gives the loss to descend for the margin head's (see regularisation.py).
        validate: gives the error rates of the model; `{phase.ranking_metric}` among them ranks the epoch.
        folder: receives the best epochs (see checkpoints.py).
        run: plain values to store in every checkpoint.
        seed: of the order of utterances.
        on_epoch: told the metrics of every epoch, once it is saved; epoch 0 is the state before any step.
        origin: what an interrupted phase must find unchanged to go on.
        on_start: told, when nothing refuses the phase any more, the rows of the learning curve that an
            interrupted one has saved; `on_epoch` may have missed the last of them.

    Returns:
        LEARNING_CURVE table.

    Raises:
        TrainingError: the loss or a gradient is not finite (the utterances of the step are named), or memory
            is short.
        InUseError: another run, which is alive, trains in the folder.
        ParameterError: the corpus is smaller than one step, or has too few speakers for a batch of
            different ones; or parameters have changed since the phase was interrupted; or the phase is to be
            compiled, and nothing can be.
        DataError: a checkpoint cannot be written; or data have changed since the phase was interrupted.
    """
    device = model.device
    order = UtteranceOrder(examples.speakers, phase.sampling, phase.batch_size, seed)
    steps = EpochBatches(order, phase.examples_per_step, phase.steps_per_epoch)
    steps_per_epoch = len(steps)
    loader = BatchLoader(examples, steps, phase.batch_size, phase.num_workers, device)
    choose_trained(model.frontend, phase.frontend)
    if phase.compile:
        model.frontend.compile_blocks()
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = make_optimiser(parameter_groups(model, head, phase.lr_multipliers), phase.optimiser)
    both = nn.ModuleDict({"model": model, "head": head})
    average = MovingAverage(phase.averaging.newest_weight)
    checkpoints = BestCheckpoints(folder, phase.keep_checkpoints, phase.rank_by == NEWEST_FIRST)
    epoch_metrics = EpochMetrics()
    resume = ResumePoint(
        folder,
        origin,
        {
            "modules": both,
            "optimiser": optimiser,
            "average": average,
            "best": checkpoints,
            "metrics": epoch_metrics,
        },
    )
    progress = resume.begin(phase.resume, phase.allow_changed_augmentation)
    on_start(progress.curve)

    def waveforms_of(epoch: int) -> Iterator[Tensor]:
        return (batch.waveforms for batch in loader.batches(epoch - 1))

    def record(epoch: int, metrics: Metrics) -> None:
        rows = ({"epoch": epoch, "metric": name, "value": float(value)} for name, value in metrics.items())
        progress.curve.extend(rows)
        logger.info("epoch %d/%d: %s", epoch, phase.epochs, format_metrics(metrics))

    def finish_epoch(epoch: int, metrics: Metrics) -> None:
        metrics |= validate(model)
        if epoch or not phase.epochs:
            eer = metrics[phase.ranking_metric]
            with report_failed_writes(folder, resume.last_good):
                checkpoints.save_if_best(epoch, eer, model, head, {**run, "epoch": epoch, "metrics": metrics})
        record(epoch, metrics)

    if not progress.curve:
        metrics: Metrics = {}
        finish_epoch(0, metrics)
        on_epoch(0, metrics)
    done_epochs, done_steps = divmod(progress.step, steps_per_epoch)
    for epoch in range(done_epochs + 1, phase.epochs + 1):
        started = time.perf_counter()
        model.train()
        model.frontend.train(phase.frontend_mode == "training")
        batches = loader.batches(epoch - 1, done_steps)
        bar = progress_bar(f"epoch {epoch}/{phase.epochs}", steps_per_epoch, done_steps)
        with defer_termination() as terminated, bar as advance:
            for index in range(done_steps, steps_per_epoch):
                step = progress.step
                rate = phase.learning_rate_at(step, steps_per_epoch)
                set_learning_rate(optimiser, rate)
                target = margin(step, steps_per_epoch, phase.margin)
                margins = Margins(target, phase.margin.top_k, top_k_penalty(target, phase.margin))
                taken: list[Key] = []
                with report_out_of_memory(phase, step):
                    for _ in range(phase.accumulation_steps):
                        waveforms, labels, keys = next(batches)
                        taken += ((number, row) for number, row in keys.tolist())
                        with torch.autocast(
                            device.type, torch.bfloat16, enabled=phase.precision == "bfloat16"
                        ):
                            embeddings = model(waveforms)
                        output = head(embeddings, labels, margins)
                        loss = regularise(output.loss)
                        require_finite("loss", loss, step, examples, taken, resume.last_good)
                        (loss / phase.accumulation_steps).backward()
                        epoch_metrics.add(output.loss.detach(), output.predictions, labels)
                    scale_gradients(model.frontend.parameters(), phase.frontend_grad_scale)
                    norm = nn.utils.clip_grad_norm_(parameters, phase.gradient_clip_norm or math.inf)
                    require_finite("gradient", norm, step, examples, taken, resume.last_good)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                progress.step += 1
                advance(loss=float(output.loss.detach()))
                due = phase.save_every_steps and progress.step % phase.save_every_steps == 0
                if index + 1 < steps_per_epoch and (due or terminated()):
                    resume.save(progress)
                    if terminated():
                        break
        done_steps = 0
        metrics = epoch_metrics.compute() | {
            "learning_rate": rate,
            "margin": target,
            "gradient_norm": float(norm),
            "data_seconds": loader.waited_seconds,
            "step_seconds": time.perf_counter() - started - loader.waited_seconds,
        }
        if epoch <= phase.epochs - phase.averaging.last_epochs:
            finish_epoch(epoch, metrics)
        else:
            average.update(both)
            with average.applied(both):
                reestimate_statistics(model, waveforms_of(epoch))
                finish_epoch(epoch, metrics)
        epoch_metrics.clear()
        resume.save(progress)
        checkpoints.prune()
        on_epoch(epoch, metrics)
    if phase.epochs and phase.average_best > 1:
        checkpoints.load_average(model, head, phase.average_best)
        reestimate_statistics(model, waveforms_of(phase.epochs))
        metrics = validate(model)
        eer = metrics[phase.ranking_metric]
        with report_failed_writes(folder, resume.last_good):
            checkpoints.save_average(
                phase.epochs, eer, model, head, {**run, "epoch": phase.epochs, "metrics": metrics}
            )
        metrics = {f"average.{name}": value for name, value in metrics.items()}
        record(phase.epochs, metrics)
        on_epoch(phase.epochs, metrics)
    return LEARNING_CURVE.conform(pd.DataFrame(progress.curve))
