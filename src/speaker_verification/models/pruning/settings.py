"""Settings of the gates that learn what is pruned."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.pruning.kept_units import KINDS, UnitKind

Share = Annotated[float, Field(gt=0, lt=1)]


class InitialDropSettings(Settings):
    """Probability that a gate is below one half at the start, by what it closes."""

    attention_heads: Share = 0.01
    """Heads of the attention."""
    feed_forward: Share = 0.5
    """Inner units of the feed-forward networks."""
    convolution: Share = 0.01
    """Inner channels of W2V-BERT's convolution modules."""


class GateSettings(Settings):
    """Hard-concrete gates of the units of an encoder."""

    units: tuple[UnitKind, ...] = Field(KINDS, min_length=1)
    """Units that have gates."""
    initial_drop: InitialDropSettings = InitialDropSettings()
    """Probability that a gate is below one half at the start."""
    temperature: float = Field(2 / 3, gt=0)
    """Temperature of the concrete distribution: the lower, the closer to 0 and 1 its samples."""
    stretch: tuple[float, float] = (-0.1, 1.1)
    """Interval that samples are stretched to before they are clipped to 0 to 1."""

    @field_validator("stretch")
    @classmethod
    def _beyond_the_unit_interval(cls, stretch: tuple[float, float]) -> tuple[float, float]:
        if not (stretch[0] < 0 and stretch[1] > 1):
            raise ValueError(f"{list(stretch)} must begin below 0 and end above 1")
        return stretch
