"""The training loop, the same for all phases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor

from speaker_verification.common.distributed import processes
from speaker_verification.common.locks import holding
from speaker_verification.common.progress import progress_bar
from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.loading import Batch, BatchLoader
from speaker_verification.data.sampling import EpochBatches, UtteranceOrder
from speaker_verification.models.batch_statistics import share_batch_statistics
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.averaging import MovingAverage, reestimate_statistics
from speaker_verification.training.checkpoints import BestCheckpoints
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.exchange import GradientExchange
from speaker_verification.training.failures import (
    defer_termination,
    report_failed_writes,
    report_out_of_memory,
    require_finite,
)
from speaker_verification.training.kept_epochs import TRAINED_BY
from speaker_verification.training.metrics import EpochMetrics, Metrics
from speaker_verification.training.objective import Objective
from speaker_verification.training.optimiser import (
    choose_trained,
    keep_whole_state,
    make_optimiser,
    parameter_groups,
    scale_gradients,
    set_learning_rate,
)
from speaker_verification.training.phase import NEWEST_FIRST, PhaseSettings
from speaker_verification.training.phase_schedule import PhaseSchedule
from speaker_verification.training.resume import ResumePoint, RunFingerprint
from speaker_verification.training.seeding import seeded_step, share_time_masks
from speaker_verification.training.timing import EpochLines, PhaseTimes, measured

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

logger = logging.getLogger(__name__)

EPOCH_LINE_SECONDS = 60.0  # after which an epoch tells of itself in a log, where its end gets a line anyway


class Tracker(Protocol):
    """Receiver of the metrics of a phase while it trains."""

    @property
    def ids(self) -> Mapping[str, Any]:
        """Ids of the tracked runs, stored in every checkpoint."""

    def begin(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Called once before the first step.

        Args:
            curve: rows of the learning curve that an interrupted phase has saved; `log_epoch` may have missed
                the last of them.
        """

    def log_epoch(self, epoch: int, metrics: Metrics) -> None:
        """Called with the metrics of every epoch after it is saved; epoch 0 is the state before any step."""


class Untracked:
    """Tracker that keeps nothing."""

    ids: Mapping[str, Any] = {}

    def begin(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Ignore the learning curve."""

    def log_epoch(self, epoch: int, metrics: Metrics) -> None:
        """Ignore the metrics."""


class StepResult(NamedTuple):
    """Values of one optimiser step; the loss is that of its last forward pass."""

    loss: float
    gradient_norm: float
    learning_rate: float
    margin: float


def as_started(classifier: SpeakerClassifier) -> None:
    """Leave model and head as they are."""


def unregularised(loss: Tensor) -> Tensor:
    """The loss as it is."""
    return loss


@dataclass
class TrainingLoop:
    """Training of one phase, which keeps its best epochs and resumes from its last save if interrupted.

    Processes that have joined train together: each takes its share of every forward pass, and what they
    compute is what one process does, up to the order of additions and dropouts (see seeding.py). The first
    one writes and tracks.

    Attributes:
        phase: settings of the phase.
        classifier: model and head to train in place, on their device.
        examples: training examples, whose seed also orders the utterances.
        validate: function from the model to its error rates, by one of which the phase ranks its epochs.
        folder: folder of the best epochs (see checkpoints.py).
        fingerprint: inputs of the phase, stored in its checkpoints and compared before it resumes.
        initialise: function that completes model and head before the first step, not where a phase resumes.
        objective: loss of a batch, and the model that is validated and kept after an epoch.
        regularise: function from this loss to the loss to minimise (see regularisation.py).
        tracker: receiver of the metrics.
        later: phases that follow in the same run, by name: the log tells how long they take at least.
        times: receives how long the parts of the phase take.
        trained_by: plain values on the run that trains, stored in every checkpoint.
    """

    phase: PhaseSettings
    classifier: SpeakerClassifier
    examples: TrainingExamples
    validate: Callable[[SpeakerModel], Metrics]
    folder: Path
    fingerprint: RunFingerprint
    initialise: Callable[[SpeakerClassifier], None] = as_started
    objective: Objective = field(default_factory=Objective)
    regularise: Callable[[Tensor], Tensor] = unregularised
    tracker: Tracker = field(default_factory=Untracked)
    later: Mapping[str, PhaseSettings] = field(default_factory=dict)
    times: PhaseTimes = field(default_factory=PhaseTimes)
    trained_by: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> pd.DataFrame:
        """Train from the start, or from the last save, to the end of the phase.

        The classifier of a phase that had finished before is left as it is.

        Returns:
            LEARNING_CURVE table.

        Raises:
            TrainingError: the loss or a gradient is not finite (the utterances of the step are named), or
                memory is short.
            InUseError: a live process trains in the folder.
            ParameterError: the corpus is smaller than one step, or has too few speakers for a batch of
                different ones; or the processes cannot share a batch evenly; or parameters have changed since
                the phase was interrupted; or the phase is to be compiled, and nothing can be.
            DataError: a checkpoint cannot be written; or data have changed since the phase was interrupted.
            PeerError: another process has failed.
        """
        self.group = processes()
        with self.group.failing_together(), holding([self.folder], "train"):
            self._prepare()
            phase = self.phase
            self.progress = self.resume.begin(phase.resume, phase.allow_changed_augmentation)
            self.tracker.begin(self.progress.curve)
            if not self.progress.finished:
                self._run_epochs()
                self.resume.finish(self.progress)
            return LEARNING_CURVE.conform(pd.DataFrame(self.progress.curve))

    def _prepare(self) -> None:
        """Make all that the steps need, in its state at the start of the phase."""
        phase, examples, folder = self.phase, self.examples, self.folder
        self.model, self.head = self.classifier.model, self.classifier.head
        order = UtteranceOrder(
            examples.speakers, phase.sampling, phase.batch_size, examples.seed, len(phase.class_speeds)
        )
        steps = EpochBatches(order, phase.examples_per_step, phase.steps_per_epoch)
        self.steps_per_epoch = len(steps)
        self.schedule = PhaseSchedule(phase, self.steps_per_epoch)
        self.times.examples_of_pass = len(order)
        self.lines = EpochLines(
            self.fingerprint.phase,
            phase,
            self.steps_per_epoch,
            self.later,
            self.times,
            ranks=self.objective.ranks,
        )
        share = self.group.share(phase.batch_size, "batch_size")
        self.loader = BatchLoader(
            examples, steps, phase.batch_size, phase.num_workers, self.model.device, share
        )
        choose_trained(self.model.frontend, phase.frontend)
        if phase.compile:
            self.model.frontend.compile_blocks()
        self.parts: dict[str, Stateful] = {}
        self.objective.begin(self.classifier, self.steps_per_epoch, self._make_optimiser)
        if self.objective.state_dict():
            self.parts["objective"] = self.objective  # first: it gives the model the shape of the others
        self.parts["modules"] = self.classifier
        self._make_optimiser()
        if self.group.joined:
            self._join()
        self.average = MovingAverage(phase.averaging.newest_weight)
        self.checkpoints = BestCheckpoints(folder, phase.keep_checkpoints, phase.rank_by == NEWEST_FIRST)
        self.epoch_metrics = EpochMetrics(self.head.num_classes, self.model.device)
        self.parts |= {
            "average": self.average,
            "best": self.checkpoints,
            "metrics": self.epoch_metrics,
        }
        self.resume = ResumePoint(folder, self.fingerprint, self.parts)

    def _make_optimiser(self) -> None:
        """Make the optimiser of the trained parameters, and the exchange of their gradients."""
        self.parameters = [p for p in self.classifier.parameters() if p.requires_grad]
        self.gradients = GradientExchange(self.parameters, self.head.sharded_parameters)
        clipped = (self.model, self.head) if self.phase.gradient_clip_apart else (self.classifier,)
        self.clipped_parts = [list(part.parameters()) for part in clipped]
        groups = parameter_groups(self.model, self.head, self.phase.lr_multipliers)
        self.optimiser = make_optimiser(groups, self.phase.optimiser)
        if self.head.shard:
            keep_whole_state(self.optimiser, self.head.sharded_parameters, self.head.shard)
        self.parts["optimiser"] = self.optimiser

    def _join(self) -> None:
        """Make what is computed over the examples of a forward pass the same as in one process."""
        share_batch_statistics(self.classifier)
        share_time_masks(self.model.frontend.encoder)
        if not self.group.is_first:
            self.tracker = Untracked()
        logger.info(
            "%d processes, each with %d of the %d examples of a forward pass; %.3g MB of gradients a step",
            *(self.group.size, self.phase.batch_size // self.group.size),
            *(self.phase.batch_size, self.gradients.megabytes),
        )

    def _run_epochs(self) -> None:
        if not self.progress.curve:
            self.start_phase()
        done_epochs, first_step = divmod(self.progress.step, self.steps_per_epoch)
        self.lines.begin(self.progress.step)
        for epoch in range(done_epochs + 1, self.phase.epochs + 1):
            with measured(self.times.training):
                self.objective.begin_epoch(epoch)
                metrics = self.train_epoch(epoch, first_step)
            with measured(self.times.finishing):
                self.finish_epoch(epoch, metrics)
            first_step = 0
        if self.phase.epochs and self.phase.average_best > 1:
            self.average_best()

    def start_phase(self) -> None:
        """Measure the state before any step; a phase without epochs hands it on as its checkpoint."""
        self.initialise(self.classifier)
        metrics = self._validate(self.model)
        if not self.phase.epochs:
            self._keep(self.checkpoints.save_if_best, 0, metrics, self.model)
        self._record(0, metrics)
        self.lines.log_epoch(0, 0, self.progress.curve)
        self.tracker.log_epoch(0, metrics)

    def train_epoch(self, epoch: int, first_step: int) -> Metrics:
        """Training metrics of an epoch, after its optimiser steps from `first_step` on."""
        started = time.perf_counter()
        self.classifier.train()
        # A frozen frontend may train with its dropouts, and a trained one without.
        self.model.frontend.begin_training(self.phase.frontend_mode)
        self.model.refuse_short(self.examples.crop_lengths.shortest)  # which may be drawn late
        batches = self.loader.batches(epoch - 1, first_step)
        name = f"{self.fingerprint.phase}: epoch {epoch}/{self.phase.epochs}"
        bar = progress_bar(
            name, self.steps_per_epoch, first_step, "loss", first_line_seconds=EPOCH_LINE_SECONDS
        )
        steps: list[float] = []
        self.times.steps.append(steps)
        with defer_termination() as terminated, bar as advance:
            for index in range(first_step, self.steps_per_epoch):
                with measured(steps):
                    step = self.train_step(batches)
                advance(loss=step.loss)
                # The last step is saved with the finished epoch.
                if index + 1 < self.steps_per_epoch and (self._save_is_due() or terminated()):
                    with measured(self.times.saving):
                        self.resume.save(self.progress)
                    if terminated():
                        break  # the end of the block exits the process
        metrics = self.epoch_metrics.compute() | {
            "learning_rate": step.learning_rate,
            **({"margin": step.margin} if self.objective.has_margin else {}),
            "gradient_norm": step.gradient_norm,
            "data_seconds": self.loader.waited_seconds,
            "step_seconds": time.perf_counter() - started - self.loader.waited_seconds,
        }
        return self.group.first(metrics)

    def train_step(self, batches: Iterator[Batch]) -> StepResult:
        """One optimiser step over the next batches, with one device synchronisation."""
        phase, step = self.phase, self.progress.step
        set_learning_rate(self.optimiser, partial(self.schedule.learning_rate, step))
        margin = self.schedule.margin(step)
        margins = Margins(margin, phase.margin.top_k, self.schedule.top_k_penalty(step))
        losses: list[Tensor] = []
        keys: list[Tensor] = []
        with seeded_step(self.examples.seed, step, self.model.device), report_out_of_memory(phase, step):
            for _ in range(phase.accumulation_steps):
                batch = next(batches)
                keys.append(batch.keys)
                self.objective.begin_pass(step, len(losses))
                autocast = phase.precision == "bfloat16"
                told, predictions = self.objective.loss(self.classifier, batch, margins, autocast)
                loss = self.regularise(told)
                # Mean over the passes: the gradient is that of one batch with all their examples.
                (loss / phase.accumulation_steps).backward()
                losses.append(loss.detach())
                self.epoch_metrics.add(told.detach(), predictions, batch.labels)
            self.gradients.average()
            scale_gradients(self.model.frontend.parameters(), phase.frontend_grad_scale)
            norm = self.gradients.clip(phase.gradient_clip_norm or math.inf, *self.clipped_parts)
            # All that the CPU has to know is read at once: every read waits for the device. It is read before
            # the optimiser's step, so that no weight takes up a gradient that is not finite.
            means = self.group.mean(torch.stack([x.double() for x in (*losses, told.detach())]))
            *minimised, last_loss, gradient_norm = torch.cat([means, norm.double()[None]]).tolist()
            self._refuse_not_finite(minimised, gradient_norm, keys)
            self.optimiser.step()
            self.objective.update()
            self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        return StepResult(last_loss, gradient_norm, self.schedule.learning_rate(step), margin)

    def finish_epoch(self, epoch: int, metrics: Metrics) -> None:
        """Average, validate, rank and save the weights after an epoch."""
        if epoch <= self.phase.epochs - self.phase.averaging.last_epochs:
            self._evaluate(epoch, metrics)
        else:
            self.average.update(self.classifier)
            with self.average.applied(self.classifier):
                with measured(self.times.reestimating):
                    reestimate_statistics(self.model, self._waveforms_of(epoch))
                self._evaluate(epoch, metrics)
        self.epoch_metrics.clear()
        # Saved before it is logged: what a tracker has was never lost. Evicted checkpoints are deleted after
        # the save, because the state before it ranks them.
        with measured(self.times.saving):
            self.resume.save(self.progress)
        self.checkpoints.prune()
        self.tracker.log_epoch(epoch, metrics)

    def average_best(self) -> None:
        """Average the weights of the best epochs, and rank the average first."""
        epoch = self.phase.epochs
        self.checkpoints.load_average(self.model, self.head, self.phase.average_best)
        with measured(self.times.averaging_best):
            reestimate_statistics(self.model, self._waveforms_of(epoch))
        metrics = self._validate(self.model)
        self._keep(self.checkpoints.save_average, epoch, metrics, self.model)
        self.lines.log_average(metrics[self.phase.ranking_metric])
        metrics = {f"average.{name}": value for name, value in metrics.items()}
        self._record(epoch, metrics)
        self.tracker.log_epoch(epoch, metrics)

    def _evaluate(self, epoch: int, metrics: Metrics) -> None:
        """Add the error rates of the present weights to an epoch's metrics, and keep the best weights."""
        model = self.objective.handed_on(self.model)
        metrics |= self._validate(model) | self.group.first(self.objective.metrics())
        is_last_resort = epoch == self.phase.epochs and not self.checkpoints.ranking
        if self.objective.ranks(metrics) or is_last_resort:
            self._keep(self.checkpoints.save_if_best, epoch, metrics, model)
        self._record(epoch, metrics)
        self.lines.log_epoch(epoch, self.progress.step, self.progress.curve)

    def _validate(self, model: SpeakerModel) -> Metrics:
        return self.group.first(self.validate(model))

    def _keep(self, save: Callable[..., None], epoch: int, metrics: Metrics, model: SpeakerModel) -> None:
        """Hand a model and the present head to a saving method of the checkpoints."""
        run = self.fingerprint.record() | {"tracking": dict(self.tracker.ids)}
        run |= {TRAINED_BY: dict(self.trained_by), "epoch": epoch, "metrics": metrics}
        with report_failed_writes(self.folder, self.resume.last_good):
            save(epoch, metrics[self.phase.ranking_metric], model, self.head, run)
        self.group.wait()

    def _record(self, epoch: int, metrics: Metrics) -> None:
        """Add an epoch's metrics to the learning curve."""
        rows = ({"epoch": epoch, "metric": name, "value": float(value)} for name, value in metrics.items())
        self.progress.curve.extend(rows)

    def _save_is_due(self) -> bool:
        every = self.phase.save_every_steps
        return every is not None and self.progress.step % every == 0

    def _refuse_not_finite(self, losses: list[float], gradient_norm: float, keys: list[Tensor]) -> None:
        """Stop before the optimiser's step at the first loss, or at a gradient, that is not finite."""
        step, last_good = self.progress.step, self.resume.last_good
        for number, loss in enumerate(losses, start=1):
            require_finite("loss", loss, step, self.examples, keys[:number], last_good)
        require_finite("gradient", gradient_norm, step, self.examples, keys, last_good)

    def _waveforms_of(self, epoch: int) -> Iterator[Tensor]:
        return (batch.waveforms for batch in self.loader.batches(epoch - 1))
