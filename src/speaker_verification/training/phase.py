"""A training phase as data: all three phases run through the same loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from speaker_verification.configuration import Settings
from speaker_verification.training.schedules import LearningRateSettings, MarginSettings


class PhaseSettings(Settings):
    """One of the published phases: pretrain (frozen frontend), finetune (joint), lmft (large margin)."""

    epochs: int = Field(ge=0)
    frontend: Literal["frozen", "trained"]
    crop_seconds: float = Field(gt=0)
    batch_size: int = Field(ge=2)
    accumulation_steps: int = Field(1, ge=1)
    steps_per_epoch: int | None = Field(None, ge=1)
    learning_rate: LearningRateSettings
    weight_decay: float = Field(ge=0)
    margin: MarginSettings
    speed_factors: tuple[float, ...] = (1.0,)
    gradient_clip_norm: float | None = Field(None, gt=0)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    keep_checkpoints: int = Field(2, ge=1)
    choose_top: int = Field(1, ge=1)
    rank_by: str = "validation"
    monitor: tuple[str, ...] = ()
    num_workers: int = Field(0, ge=0)
    seed_offset: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> PhaseSettings:
        if 1.0 not in self.speed_factors or min(self.speed_factors) <= 0:
            raise ValueError(f"speed_factors {list(self.speed_factors)} must be positive and hold 1.0")
        known = ("validation", *self.monitor)
        if self.rank_by not in known:
            raise ValueError(f"rank_by '{self.rank_by}' must be one of: {', '.join(known)}")
        return self

    @property
    def examples_per_step(self) -> int:
        return self.batch_size * self.accumulation_steps

    @property
    def num_speed_classes(self) -> int:
        """A speaker heard at another speed is another speaker to the classifier."""
        return len(set(self.speed_factors))
