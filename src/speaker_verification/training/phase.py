"""A training phase as data: all three phases run through the same loop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from speaker_verification.audio.speed import speed_class_offsets
from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import Settings
from speaker_verification.data.sampling import SamplingSettings
from speaker_verification.training.schedules import (
    LearningRateSettings,
    MarginSettings,
)

NEWEST_FIRST = "last"  # a ranking by no error rate


def refuse_rank(rank: int, num_kept: int, where: object) -> None:
    """Refuse a rank beyond the checkpoints that are kept.

    Args:
        rank: rank of a checkpoint, 1 for the best.
        num_kept: number of checkpoints that are kept.
        where: phase or folder that keeps them, for the message.

    Raises:
        ParameterError: naming `choose_top`.
    """
    if rank > num_kept:
        raise ParameterError(f"parameter 'choose_top' is {rank}: {where} keeps {num_kept} checkpoints")


class SgdSettings(Settings):
    """Settings of stochastic gradient descent."""

    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True

    @model_validator(mode="after")
    def _possible(self) -> SgdSettings:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class OptimiserSettings(Settings):
    """Optimiser; weight decay applies to every parameter, norms and biases included."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(1e-5, ge=0)
    sgd: SgdSettings = SgdSettings()


class LrMultipliers(Settings):
    """Learning rates of the model's parts, relative to the schedule's.

    Blocks of the frontend learn `block_decay` times faster or slower from one to the next: counted from the
    `top` block, which keeps the frontend's rate, down to the convolutions, or from the `bottom` one up.
    """

    head: float = Field(1.0, gt=0)
    backend: float = Field(1.0, gt=0)
    frontend: float = Field(1.0, gt=0)
    block_decay: float = Field(1.0, gt=0)
    block_decay_from: Literal["top", "bottom"] = "top"


class PretrainedDistanceSettings(Settings):
    """Penalty on the distance from the pre-trained weights (see regularisation.py)."""

    kind: Literal["none", "normalised", "l2_sp"] = "none"
    weight: float = Field(0.01, gt=0)


class AveragingSettings(Settings):
    """Moving average of the weights after each of the last epochs (see averaging.py)."""

    last_epochs: int = Field(0, ge=0)
    newest_weight: float = Field(0.9, gt=0, le=1)
    rate: float | None = Field(None, gt=0)
    anneal: Literal["linear", "cosine"] = "linear"


class PhaseSettings(Settings):
    """One of the published phases: pretrain (frozen frontend), finetune (joint), lmft (large margin)."""

    skip: bool = False
    epochs: int = Field(ge=0)
    frontend: Literal["frozen", "blocks", "no_convolutions", "trained"]
    frontend_mode: Literal["evaluation", "training"]
    frontend_grad_scale: float = Field(1.0, gt=0)
    crop_seconds: float = Field(gt=0)
    batch_size: int = Field(ge=2)
    accumulation_steps: int = Field(1, ge=1)
    steps_per_epoch: int | None = Field(None, ge=1)
    optimiser: OptimiserSettings = OptimiserSettings()
    learning_rate: LearningRateSettings = LearningRateSettings()
    lr_multipliers: LrMultipliers = LrMultipliers()
    margin: MarginSettings = MarginSettings()
    pretrained_distance: PretrainedDistanceSettings = PretrainedDistanceSettings()
    averaging: AveragingSettings = AveragingSettings()
    sampling: SamplingSettings = SamplingSettings()
    speed_factors: tuple[float, ...] = (1.0,)
    gradient_clip_norm: float | None = Field(None, gt=0)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = False
    keep_checkpoints: int = Field(2, ge=1)
    average_best: int = Field(1, ge=1)
    choose_top: int = Field(1, ge=1)
    rank_by: str = "validation"
    monitor: tuple[str, ...] = ("vox1_o",)
    num_workers: int = Field(4, ge=0)
    save_every_steps: int | None = Field(1000, ge=1)
    resume: bool = True
    allow_changed_augmentation: bool = False
    seed_offset: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _skipped(cls, values: Any) -> Any:
        skipped = isinstance(values, dict) and values.get("skip") is True
        return {**values, "epochs": 0} if skipped else values

    @model_validator(mode="after")
    def _possible(self) -> PhaseSettings:
        speed_class_offsets(self.speed_factors)
        known = ("validation", NEWEST_FIRST, *self.monitor)
        if self.rank_by not in known:
            raise ValueError(f"rank_by '{self.rank_by}' must be one of: {', '.join(known)}")
        if self.average_best > self.keep_checkpoints:
            raise ValueError(
                f"average_best {self.average_best} is more than keep_checkpoints {self.keep_checkpoints}"
            )
        return self

    @property
    def ranking_metric(self) -> str:
        """Name of the error rate that ranks checkpoints, or is stored where the newest rank first."""
        return f"{'validation' if self.rank_by == NEWEST_FIRST else self.rank_by}.eer"

    @property
    def examples_per_step(self) -> int:
        return self.batch_size * self.accumulation_steps

    @property
    def num_speed_classes(self) -> int:
        """Classes per speaker: a speaker at another speed is another class."""
        return len(speed_class_offsets(self.speed_factors))

    @property
    def num_kept(self) -> int:
        """Checkpoints that are kept: the best epochs, and their average where it is handed on."""
        return min(self.keep_checkpoints, max(self.epochs, 1)) + (self.average_best > 1)

    def refuse_more_classes(self, num_before: int) -> None:
        """Refuse more classes of a speaker than the phase before has made.

        Raises:
            ParameterError: naming `speed_factors`.
        """
        if self.num_speed_classes > num_before:
            raise ParameterError(
                f"parameter 'speed_factors' makes {self.num_speed_classes} classes of a speaker, of which "
                f"the phase before has made {num_before}"
            )
