"""Schedules of learning rate and margin: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from speaker_verification.common.settings_base import Settings

MarginCurve = Literal["log", "exp", "cos", "linear", "concave"]
CONCAVE_REST = 1e-3  # distance of the concave curve from 1 at its end


class CosineSettings(Settings):
    """Warm-up, cycles and end of the cosine schedule."""

    num_cycles: int = Field(1, ge=1)
    """Cycles."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Linear warm-up, as a fraction of the first cycle."""
    cycle_factor: float = Field(1.0, gt=0)
    """Length of a cycle behind its warm-up, relative to the one before."""
    peak_factor: float = Field(1.0, gt=0)
    """Peak of a cycle, relative to the one before."""
    fall_epochs: int | None = Field(None, ge=1)
    """Epochs of the only cycle, after which the rate stays at the minimum; null: all of the phase."""

    @model_validator(mode="after")
    def _possible(self) -> CosineSettings:
        if self.fall_epochs is not None and self.num_cycles > 1:
            raise ValueError(
                f"fall_epochs {self.fall_epochs} is of one cycle, and num_cycles is {self.num_cycles}"
            )
        return self


class StepSettings(Settings):
    """Warm-up and falls of the step schedule."""

    warmup_epochs: int = Field(0, ge=0)
    """Epochs of a linear warm-up, which reaches the maximum right after them."""
    factor: float = Field(0.95, gt=0, le=1)
    """Factor of each fall, down to the minimum."""
    every_epochs: int = Field(1, ge=1)
    """Epochs between falls, and from the warm-up to the first."""


class ExponentialSettings(Settings):
    """Warm-up of the exponential schedule."""

    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of a linear warm-up from 0, times the fall from maximum to minimum."""


class LearningRateSettings(Settings):
    """Learning-rate schedule between two rates; the group named after the chosen schedule is used."""

    schedule: Literal["cosine", "step", "exponential"] = "cosine"
    """Shape; the group of that name holds its parameters."""
    update: Literal["step", "epoch"] = "step"
    """Change of the rate with every optimiser step, or with every epoch."""
    maximum: float = Field(1e-3, gt=0)
    """Highest rate."""
    minimum: float = Field(1e-5, ge=0)
    """Lowest rate."""
    reference_batch_size: int | None = Field(None, ge=1)
    """Examples of a step at which the rates hold, scaled in proportion for others; null: any."""
    cosine: CosineSettings = CosineSettings()
    step: StepSettings = StepSettings()
    exponential: ExponentialSettings = ExponentialSettings()

    @model_validator(mode="after")
    def _possible(self) -> LearningRateSettings:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.schedule == "exponential" and not self.minimum:
            raise ValueError("minimum 0 is never reached by the exponential schedule: give one above 0")
        if self.schedule == "exponential" and self.update == "epoch" and self.exponential.warmup_epochs:
            raise ValueError(
                "update 'epoch' would give the first epoch the rate 0 of exponential.warmup_epochs: set "
                "exponential.warmup_epochs to 0, or update to step"
            )
        return self


class MarginSettings(Settings):
    """Target margin in radians, its growth, and the inter-top-k penalty."""

    final: float = Field(0.3, ge=0, lt=math.pi)
    """Final margin in radians."""
    curve: MarginCurve = "log"
    """Curve of its growth."""
    start_epoch: int = Field(0, ge=0)
    """Epochs without a margin."""
    growth_epochs: int = Field(0, ge=0)
    """Epochs of growth; 0: final from the first step."""
    top_k: int = Field(5, ge=0)
    """Hardest other classes that are penalised; 0: none."""
    top_k_penalty: float = Field(0.06, ge=0)
    """Inter-top-k penalty in radians, growing with the margin."""
    penalty_reference_margin: float | None = Field(None, gt=0)
    """Margin at which the penalty has its full value, in radians; null: the final one."""


def learning_rate(step: int, steps_per_epoch: int, epochs: int, settings: LearningRateSettings) -> float:
    """Rate of a step.

    Args:
        step: counted from 0.
        steps_per_epoch: optimiser steps in an epoch.
        epochs: number of epochs of the phase.
        settings: learning-rate schedule of the phase.
    """
    if settings.schedule == "step":
        return _stepwise(step, steps_per_epoch, settings)
    total_steps = epochs * steps_per_epoch
    if settings.schedule == "exponential":
        return _exponential(step, total_steps, settings.exponential.warmup_epochs * steps_per_epoch, settings)
    if settings.cosine.fall_epochs is not None:
        total_steps = settings.cosine.fall_epochs * steps_per_epoch
        if step >= total_steps:
            return settings.minimum
    return _cosine(step, total_steps, settings)


def _stepwise(step: int, steps_per_epoch: int, settings: LearningRateSettings) -> float:
    """Linear warm-up, by one part in n + 1 of the maximum in each of n steps, then falls to the minimum.

    Source (warm-up): Z. Li et al., arXiv 2510.04213 (its recipes).
    """
    warmup_steps = settings.step.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        height = (step + 1) / (warmup_steps + 1)
    else:
        falls = (step - warmup_steps) // (settings.step.every_epochs * steps_per_epoch)
        height = settings.step.factor**falls
    return max(settings.maximum * height, settings.minimum)


def _exponential(step: int, total_steps: int, warmup_steps: float, settings: LearningRateSettings) -> float:
    """From the maximum to the minimum over all steps, times a linear warm-up from 0.

    Source: H. Wang et al., Wespeaker, ICASSP 2023 (its recipes).
    """
    warmth = min(step / warmup_steps, 1.0) if warmup_steps else 1.0
    return warmth * settings.maximum * (settings.minimum / settings.maximum) ** (step / total_steps)


def _cosine(step: int, total_steps: int, settings: LearningRateSettings) -> float:
    """Linear warm-up from the minimum, then a half cosine back to it, in every cycle.

    The first cycle takes total_steps // num_cycles steps, of which the fraction `warmup_fraction` warms up;
    from cycle to cycle the warm-up keeps its number of steps, the rest is multiplied by `cycle_factor` and
    the peak by `peak_factor`.

    Source: I. Loshchilov and F. Hutter, SGDR, ICLR 2017, equation 5, with the warm-up of LAP's recipe.
    """
    cycles = settings.cosine
    cycle_steps = max(total_steps // cycles.num_cycles, 1)
    warmup_steps = int(cycle_steps * cycles.warmup_fraction)
    peak = settings.maximum
    while step >= cycle_steps:
        step -= cycle_steps
        cycle_steps = max(int((cycle_steps - warmup_steps) * cycles.cycle_factor) + warmup_steps, 1)
        peak *= cycles.peak_factor
    if step < warmup_steps:
        height = step / warmup_steps
    else:
        height = (1 + math.cos(math.pi * (step - warmup_steps) / (cycle_steps - warmup_steps))) / 2
    return settings.minimum + (peak - settings.minimum) * height


def annealed(start: float, end: float, fraction: float, shape: Literal["linear", "cosine"]) -> float:
    """Value at a fraction 0..1 of the way from one to another, straight or along half a cosine."""
    if shape == "cosine":
        fraction = (1 - math.cos(math.pi * fraction)) / 2
    return start + (end - start) * fraction


def margin(step: int, steps_per_epoch: int, settings: MarginSettings) -> float:
    """Target margin of a step, in radians: 0 until `start_epoch`, then along the curve to its final value.

    Args:
        step: counted from 0.
        steps_per_epoch: optimiser steps in an epoch.
        settings: margin of the phase.
    """
    growth_steps = settings.growth_epochs * steps_per_epoch
    position = step - settings.start_epoch * steps_per_epoch
    if growth_steps <= 1 or position >= growth_steps:
        return settings.final if position >= 0 else 0.0
    return settings.final * _risen(max(position, 0), growth_steps, settings.curve)


def top_k_penalty(target_margin: float, settings: MarginSettings) -> float:
    """Inter-top-k penalty in radians: grows in proportion to the target margin.

    It is `top_k_penalty` at the margin `penalty_reference_margin`; without one, at the phase's final margin.
    """
    reference = settings.penalty_reference_margin or settings.final
    return settings.top_k_penalty * target_margin / reference if reference else 0.0


def _risen(position: int, growth_steps: int, curve: MarginCurve) -> float:
    """Height in 0..1 of a curve at one of the steps over which it rises.

    Source (concave curve): H. Wang et al., Wespeaker, ICASSP 2023 (its recipes), where it is called
    exponential.
    """
    if curve == "concave":
        return 1 - CONCAVE_REST ** (position / growth_steps)
    shapes: dict[MarginCurve, tuple[Callable[[float], float], float, float]] = {
        "log": (math.log, 5e-3, 1.0),
        "exp": (math.exp, 0.1, 5.0),
        "cos": (math.cos, -math.pi, 0.0),
        "linear": (float, 0.0, 1.0),
    }
    shape, start, end = shapes[curve]
    fraction = position / (growth_steps - 1)
    lowest, highest = shape(start), shape(end)
    return (shape(start + fraction * (end - start)) - lowest) / (highest - lowest)
