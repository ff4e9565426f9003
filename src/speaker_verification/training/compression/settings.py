"""Settings of the phase that compresses a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.pruning.settings import GateSettings
from speaker_verification.training.phase import PhaseSettings

EXPECTED, WANTED, SPARSITY = "expected_sparsity", "wanted_sparsity", "sparsity"  # metrics, shares


class CompressSettings(PhaseSettings):
    """A phase that prunes the encoder in its first epochs, and trains what is left in its last ones."""

    guide: Literal["teacher", "margin"] = "teacher"
    """Loss; teacher: distance of the states from those of the model at the start, margin: the head's."""
    target_sparsity: float = Field(0.8, gt=0, lt=1)
    """Share of the encoder's parameters that goes."""
    growth_steps: int = Field(10_000, ge=1)
    """Optimiser steps in which the wanted sparsity grows from 0 to its target."""
    recovery_epochs: int = Field(20, ge=0)
    """Last epochs, which train the smaller model; pruning takes those before."""
    gate_learning_rate: float = Field(0.02, gt=0)
    """Learning rate of the gates, and of the multipliers that hold them to the wanted sparsity."""
    gates: GateSettings = GateSettings()

    def refuse_late_growth(self, steps_per_epoch: int) -> None:
        """Refuse a growth of the wanted sparsity that does not end while the phase prunes.

        Raises:
            ParameterError: naming `growth_steps`.
        """
        epochs = self.epochs - self.recovery_epochs
        if self.epochs and self.growth_steps > epochs * steps_per_epoch:
            raise ParameterError(
                f"parameter 'growth_steps' is {self.growth_steps}: pruning has {epochs * steps_per_epoch} "
                f"steps, {epochs} epochs of {steps_per_epoch}"
            )

    @model_validator(mode="after")
    def _can_prune(self) -> CompressSettings:
        if self.epochs and self.recovery_epochs >= self.epochs:
            raise ValueError(
                f"recovery_epochs {self.recovery_epochs} of {self.epochs} epochs leave none to prune in"
            )
        if self.frontend == "frozen":
            raise ValueError("frontend 'frozen' cannot be pruned: use trained, no_convolutions or blocks")
        if self.compile:
            raise ValueError("compile is true, but parts that are pruned cannot be compiled: set it to false")
        if self.pretrained_distance.kind != "none":
            raise ValueError(
                f"pretrained_distance.kind '{self.pretrained_distance.kind}' has no weights to compare "
                "those of a smaller encoder with: set it to none"
            )
        if self.average_best > 1 or self.averaging.last_epochs > self.recovery_epochs:
            raise ValueError(
                f"epochs of pruning differ in size and have no average: set average_best to 1, and "
                f"averaging.last_epochs to at most recovery_epochs {self.recovery_epochs}"
            )
        return self
