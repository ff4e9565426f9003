"""Settings of an encoder in training: regularisation and LoRA, which a phase sets too."""

from __future__ import annotations

from pydantic import Field

from speaker_verification.common.settings_base import Settings


class RegularisationSettings(Settings):
    """Regularisation of an encoder in training mode; None keeps the value of its checkpoint."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate in all places."""
    layer_drop: float | None = Field(None, ge=0, lt=1)
    """Probability of skipping a block."""
    mask_time_probability: float | None = Field(None, ge=0, lt=1)
    """Share of masked frames."""


class LoraSettings(Settings):
    """LoRA, trained low-rank updates of frozen linear layers (see encoders/lora.py)."""

    rank: int = Field(0, ge=0)
    """Rank of LoRA's updates of the frozen encoder; 0: no LoRA."""
    alpha: int = Field(128, ge=1)
    """Factor on the updates, divided by their rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the updates."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Updated linear layers, by the last parts of their names; null: those of the encoder's family."""
