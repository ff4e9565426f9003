"""Learning rate and margin as pure functions of the step, so that resuming needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from speaker_verification.configuration import Settings

MarginCurve = Literal["log", "exp", "cos"]


class LearningRateSettings(Settings):
    """Warm-up cosine with cycles."""

    maximum: float = Field(1e-3, gt=0)
    minimum: float = Field(1e-5, ge=0)
    num_cycles: int = Field(1, ge=1)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    cycle_factor: float = Field(1.0, gt=0)
    peak_factor: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> LearningRateSettings:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class MarginSettings(Settings):
    """Target margin in radians, how it grows, and the inter-top-k penalty beside it."""

    final: float = Field(0.3, ge=0, lt=math.pi)
    curve: MarginCurve = "log"
    start_epoch: int = Field(0, ge=0)
    growth_epochs: int = Field(20, ge=0)
    top_k: int = Field(5, ge=0)
    top_k_penalty: float = Field(0.06, ge=0)


def learning_rate(step: int, total_steps: int, settings: LearningRateSettings) -> float:
    """Rate of a step: linear warm-up from the minimum, then a half cosine back to it, in every cycle.

    The first cycle takes total_steps // num_cycles steps, of which the fraction `warmup_fraction` warms up;
    from cycle to cycle the warm-up keeps its number of steps, the rest is multiplied by `cycle_factor` and
    the peak by `peak_factor`.

    Args:
        step: counted from 0.
        total_steps: of the phase.
        settings: of the phase.

    Source: I. Loshchilov and F. Hutter, SGDR, ICLR 2017, equation 5, with the warm-up of LAP's recipe.
    """
    cycle_steps = max(total_steps // settings.num_cycles, 1)
    warmup_steps = int(cycle_steps * settings.warmup_fraction)
    peak = settings.maximum
    while step >= cycle_steps:
        step -= cycle_steps
        cycle_steps = max(int((cycle_steps - warmup_steps) * settings.cycle_factor) + warmup_steps, 1)
        peak *= settings.peak_factor
    if step < warmup_steps:
        height = step / warmup_steps
    else:
        height = (1 + math.cos(math.pi * (step - warmup_steps) / (cycle_steps - warmup_steps))) / 2
    return settings.minimum + (peak - settings.minimum) * height


def margin(step: int, steps_per_epoch: int, settings: MarginSettings) -> float:
    """Target margin of a step, in radians: 0 until `start_epoch`, then along the curve to its final value.

    Args:
        step: counted from 0.
        steps_per_epoch: optimiser steps in an epoch.
        settings: of the phase.
    """
    growth_steps = settings.growth_epochs * steps_per_epoch
    position = step - settings.start_epoch * steps_per_epoch
    if growth_steps <= 1 or position >= growth_steps:
        return settings.final if position >= 0 else 0.0
    return settings.final * _risen(max(position, 0) / (growth_steps - 1), settings.curve)


def top_k_penalty(target_margin: float, settings: MarginSettings) -> float:
    """Inter-top-k penalty in radians: grows in proportion to the target margin."""
    return settings.top_k_penalty * target_margin / settings.final if settings.final else 0.0


def _risen(fraction: float, curve: MarginCurve) -> float:
    """Height in 0..1 of a curve at a fraction 0..1 of its way."""
    shapes: dict[MarginCurve, tuple[Callable[[float], float], float, float]] = {
        "log": (math.log, 5e-3, 1.0),
        "exp": (math.exp, 0.1, 5.0),
        "cos": (math.cos, -math.pi, 0.0),
    }
    shape, start, end = shapes[curve]
    lowest, highest = shape(start), shape(end)
    return (shape(start + fraction * (end - start)) - lowest) / (highest - lowest)
