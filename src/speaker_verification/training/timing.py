"""Time that a phase takes: measured part by part, told in the line of an epoch, and estimated before it."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from speaker_verification.common.progress import duration_text
from speaker_verification.training.phase import PhaseSettings

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 2  # of an epoch, whose times say little about the others
RUN_LINE_SECONDS = 1800.0  # between lines on the phases that follow


@dataclass
class PhaseTimes:
    """Times in s of the parts of a phase.

    Attributes:
        training: training of each epoch, the start of workers and the saves between steps included.
        steps: optimiser steps of each epoch, the wait for their batches included.
        finishing: validation and saving after each epoch, and the averaging before them.
        reestimating: passes through an epoch's data for averaged weights, a part of `finishing`.
        averaging_best: the same pass for the average of the best epochs, after the last epoch.
        saving: saves of the resume file.
        examples_of_pass: training examples of a pass through the corpus.
    """

    training: list[float] = field(default_factory=list)
    steps: list[list[float]] = field(default_factory=list)
    finishing: list[float] = field(default_factory=list)
    reestimating: list[float] = field(default_factory=list)
    averaging_best: list[float] = field(default_factory=list)
    saving: list[float] = field(default_factory=list)
    examples_of_pass: int = 0

    @property
    def step_seconds(self) -> float:
        """Median time of a step after the first ones of its epoch."""
        return statistics.median(
            seconds for epoch in self.steps for seconds in epoch[WARM_UP_STEPS:] or epoch[-1:]
        )

    @property
    def epochs_seconds(self) -> float:
        """Time of all epochs."""
        return sum(self.training) + sum(self.finishing)

    def full_seconds(self, whole_seconds: float, full: PhaseSettings) -> float:
        """Time of a phase with all its epochs and steps, from that of a shortened one.

        Every epoch adds what it needs beside its steps: the first one the start of workers, all of them
        validation and saving. Passes through an epoch's data grow with its steps.

        Args:
            whole_seconds: time of the shortened phase, from its start to its saved outputs.
            full: settings of the whole phase.
        """
        if not self.training or not full.epochs:
            return whole_seconds
        step, steps = self.step_seconds, full.num_steps(self.examples_of_pass)
        beside = [
            max(training - len(epoch) * step, 0.0)
            for training, epoch in zip(self.training, self.steps, strict=True)
        ]
        finishing = (sum(self.finishing) - sum(self.reestimating)) / len(self.finishing)
        later = statistics.fmean(beside[1:]) if beside[1:] else 0.0
        seconds = whole_seconds - self.epochs_seconds + beside[0] + (full.epochs - 1) * later
        seconds += full.epochs * (steps * step + finishing)
        if self.reestimating:
            of_step = statistics.fmean(self.reestimating) / len(self.steps[-1])
            seconds += full.averaging.last_epochs * steps * of_step
        seconds += sum(self.averaging_best) * (steps / len(self.steps[-1]) - 1)
        if self.saving and full.save_every_steps is not None:
            seconds += full.epochs * ((steps - 1) // full.save_every_steps) * statistics.fmean(self.saving)
        return seconds


@contextmanager
def measured(part: list[float]) -> Iterator[None]:
    """Add the time that the block takes to a part."""
    started = time.perf_counter()
    yield
    part.append(time.perf_counter() - started)


class EpochLines:
    """Lines of a phase in the log: one for each epoch, error rate first, and now and then one for the run.

    Args:
        name: name of the phase.
        phase: settings of the phase.
        num_steps: optimiser steps of an epoch.
        later: phases that follow in the same run, by name.
        times: times of the phase's parts.
        clock: time in s.
        ranks: function that says by the metrics of an epoch whether it may be the best.
    """

    def __init__(
        self,
        name: str,
        phase: PhaseSettings,
        num_steps: int,
        later: Mapping[str, PhaseSettings],
        times: PhaseTimes,
        clock: Callable[[], float] = time.perf_counter,
        ranks: Callable[[Mapping[str, float]], bool] = lambda _: True,
    ) -> None:
        self._name, self._phase, self._num_steps = name, phase, num_steps
        self._later, self._times = later, times
        self._clock, self._ranks = clock, ranks
        self._last = self._began = clock()
        self._told_of_run = -float("inf")
        self._first_step = 0

    def begin(self, step: int) -> None:
        """Begin to measure the rate of training.

        Args:
            step: number of optimiser steps taken before.
        """
        self._last = self._began = self._clock()
        self._first_step = step

    def log_epoch(self, epoch: int, step: int, curve: Sequence[Mapping[str, Any]]) -> None:
        """Log an epoch; epoch 0 is the state before any step.

        Args:
            epoch: number of the epoch.
            step: number of optimiser steps taken.
            curve: rows of the learning curve, those of the epoch at its end.
        """
        now = self._clock()
        took, self._last = now - self._last, now
        epochs: dict[int, dict[str, float]] = {}
        for row in curve:
            epochs.setdefault(row["epoch"], {})[row["metric"]] = row["value"]
        metrics, ranked = epochs[epoch], self._phase.ranking_metric
        parts = [
            f"{self._name}  {epoch:{len(str(self._phase.epochs))}}/{self._phase.epochs}",
            f"EER {metrics[ranked]:.2f} %",
        ]
        rates = {one: found[ranked] for one, found in epochs.items() if one and self._ranks(found)}
        if epoch:
            if rates:
                best = min(rates, key=lambda one: rates[one])
                parts[-1] += " (best)" if best == epoch else f" (best {rates[best]:.2f}, epoch {best})"
            if "sparsity" in metrics:
                parts.append(f"sparsity {metrics['sparsity']:.3f}")
            parts += [f"loss {metrics['loss']:.3g}", f"lr {metrics['learning_rate']:.1e}"]
        left = self._seconds_left(step, now)
        parts.append(f"{duration_text(took)}, {duration_text(left)} left" if left else duration_text(took))
        logger.info("%s", "  ".join(parts))
        if left and self._later and now - self._told_of_run >= RUN_LINE_SECONDS:
            self._told_of_run = now
            self._log_run(left)

    def log_average(self, error_rate: float) -> None:
        """Log the error rate in % of the average of the best epochs."""
        logger.info(
            "%s  average of the best %d  EER %.2f %%", self._name, self._phase.average_best, error_rate
        )

    def _seconds_left(self, step: int, now: float) -> float:
        """Time that the phase still takes by its rate so far; 0 at its end and before its first step."""
        if step == self._first_step:
            return 0.0
        return (self._num_steps * self._phase.epochs - step) * (now - self._began) / (step - self._first_step)

    def _log_run(self, left: float) -> None:
        """Log how long the phase and those that follow train, by the audio of their steps alone.

        That is the least: a frontend that is frozen now may be trained then, and validation comes on top.
        """
        times = self._times
        rate = times.step_seconds / self._phase.seconds_of_step
        utterances = times.examples_of_pass // self._phase.speeds_of_pass
        later = {
            name: rate * one.epochs * one.num_steps(utterances * one.speeds_of_pass) * one.seconds_of_step
            for name, one in self._later.items()
        }
        phases = {self._name: left} | later
        each = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in phases.items())
        logger.info("at least %s of training left in this run: %s", duration_text(sum(phases.values())), each)
