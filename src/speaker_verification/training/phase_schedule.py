"""Learning rates and margins of a phase as functions of the optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.schedules import annealed, learning_rate, margin, top_k_penalty


@dataclass(frozen=True)
class PhaseSchedule:
    """All that a phase changes from step to step; steps are counted from 0.

    Attributes:
        phase: settings of the phase.
        steps_per_epoch: optimiser steps in an epoch.
    """

    phase: PhaseSettings
    steps_per_epoch: int

    def learning_rate(self, step: int, multiplier: float = 1.0) -> float:
        """Learning rate of a part of the model.

        The rate of the schedule, scaled linearly to the examples of a step where a reference batch size is
        set; while weights are averaged, annealed to the rate of the averaging if it has one. Where rates
        change by the epoch, an epoch counts as one step.

        Args:
            step: optimiser step.
            multiplier: rate of the part relative to the schedule's.
        """
        phase = self.phase
        steps_per_epoch = self.steps_per_epoch
        if phase.learning_rate.update == "epoch":
            step, steps_per_epoch = step // steps_per_epoch, 1
        averaged_epochs = min(phase.averaging.last_epochs, phase.epochs)
        averaged_from = (phase.epochs - averaged_epochs) * steps_per_epoch
        scheduled_step = step if phase.averaging.rate is None else min(step, averaged_from)
        rate = learning_rate(scheduled_step, steps_per_epoch, phase.epochs, phase.learning_rate)
        if phase.learning_rate.reference_batch_size is not None:
            rate *= phase.examples_per_step / phase.learning_rate.reference_batch_size
        if phase.averaging.rate is not None and step >= averaged_from:
            fraction = (step - averaged_from) / (averaged_epochs * steps_per_epoch)
            rate = annealed(rate, phase.averaging.rate, fraction, phase.averaging.anneal)
        return rate * multiplier

    def margin(self, step: int) -> float:
        """Target margin in radians."""
        return margin(step, self.steps_per_epoch, self.phase.margin)

    def top_k_penalty(self, step: int) -> float:
        """Inter-top-k penalty in radians."""
        return top_k_penalty(self.margin(step), self.phase.margin)
