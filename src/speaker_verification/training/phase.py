"""A training phase as data: all three phases run through the same loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from speaker_verification.audio.speed import speed_class_offsets
from speaker_verification.common.errors import ParameterError, listed
from speaker_verification.common.settings_base import LocalPath, SecondsOrRange, Settings
from speaker_verification.data.sampling import SamplingSettings
from speaker_verification.models.encoder_settings import LoraSettings, RegularisationSettings
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
    """Momentum."""
    nesterov: bool = True
    """Nesterov's momentum."""

    @model_validator(mode="after")
    def _possible(self) -> SgdSettings:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class OptimiserSettings(Settings):
    """Optimiser; weight decay applies to every parameter, norms and biases included."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    """Update rule; adam adds weight decay to the gradient, adamw decouples it."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay on every parameter."""
    sgd: SgdSettings = SgdSettings()


class LrMultipliers(Settings):
    """Learning rates of the model's parts, relative to the schedule's.

    Blocks of the frontend learn `block_decay` times faster or slower from one to the next: counted from the
    `top` block, which keeps the frontend's rate, down to the convolutions, or from the `bottom` one up.
    """

    head: float = Field(1.0, gt=0)
    """Factor for the head."""
    backend: float = Field(1.0, gt=0)
    """Factor for layer aggregation and speaker network."""
    frontend: float = Field(1.0, gt=0)
    """Factor for the frontend."""
    block_decay: float = Field(1.0, gt=0)
    """Rate of a block of the frontend relative to its neighbour's."""
    block_decay_from: Literal["top", "bottom"] = "top"
    """Block that has the frontend's rate."""


class PretrainedDistanceSettings(Settings):
    """Penalty on the distance from the pre-trained weights (see regularisation.py)."""

    kind: Literal["none", "normalised", "l2_sp"] = "none"
    """Kind of penalty; normalised: loss and distance each over its own value, l2_sp: squared distance."""
    weight: float = Field(0.01, gt=0)
    """Weight of the penalty."""


class AveragingSettings(Settings):
    """Moving average of the weights after each of the last epochs (see averaging.py)."""

    last_epochs: int = Field(0, ge=0)
    """Epochs that are averaged; 0: none."""
    newest_weight: float = Field(0.9, gt=0, le=1)
    """Weight of the newest epoch."""
    rate: float | None = Field(None, gt=0)
    """Learning rate that these epochs anneal to; null: the schedule's."""
    anneal: Literal["linear", "cosine"] = "linear"
    """Shape of the annealing."""


class PhaseSettings(Settings):
    """One of the published phases: pretrain (frozen frontend), finetune (joint), lmft (large margin)."""

    skip: bool = False
    """Hand the start on untrained, whatever the epochs: a recipe without this phase."""
    start: LocalPath | None = None
    """Saved model to start from with its own configuration, instead of the phase before; null: none."""
    start_head: Literal["kept", "mean_embeddings", "random"] = "kept"
    """Classes after `start`; kept: those of its speakers, and mean embeddings for the others."""
    epochs: int = Field(ge=0)
    """Epochs; 0 hands the start on untrained."""
    frontend: Literal["frozen", "blocks", "no_convolutions", "trained"]
    """Trained part of the frontend; blocks: the transformer's, trained: all."""
    frontend_mode: Literal["evaluation", "training"]
    """Mode of the frontend; training: with dropout, layer drop and time masks, even where frozen."""
    regularisation: RegularisationSettings = RegularisationSettings()
    """Regularisation of the encoder in this phase; null: the model's."""
    frontend_grad_scale: float = Field(1.0, gt=0)
    """Factor on the gradients of the frontend before clipping."""
    lora: LoraSettings = LoraSettings()
    """LoRA on the frozen encoder; saved models have it merged into their weights."""
    crop_seconds: SecondsOrRange
    """Length of training examples in seconds; of a range [low, high] one is drawn for each optimiser step."""
    batch_size: int = Field(ge=2)
    """Examples of a forward pass."""
    accumulation_steps: int = Field(1, ge=1)
    """Forward passes of an optimiser step."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """Optimiser steps of an epoch; null: a pass through the corpus."""
    optimiser: OptimiserSettings = OptimiserSettings()
    learning_rate: LearningRateSettings = LearningRateSettings()
    lr_multipliers: LrMultipliers = LrMultipliers()
    """Factors on the schedule's rate by part of the model."""
    margin: MarginSettings = MarginSettings()
    pretrained_distance: PretrainedDistanceSettings = PretrainedDistanceSettings()
    """Penalty on the distance of the frontend to its pre-trained weights."""
    averaging: AveragingSettings = AveragingSettings()
    """Moving average of the weights over the last epochs."""
    sampling: SamplingSettings = SamplingSettings()
    speed_factors: tuple[float, ...] = (1.0,)
    """Playback speeds, drawn evenly; a speaker at another speed is another class."""
    cut_head: bool = False
    """Cut classes at speeds that this phase does not have off the head that it starts from."""
    augment: bool = True
    """Augment the crops, as `augmentation` says; false: all of them stay clean."""
    gradient_clip_norm: float | None = Field(None, gt=0)
    """Norm that gradients are clipped to; null: no clipping."""
    gradient_clip_apart: bool = False
    """Clip the gradients of model and head each by their own norm instead of by their common one."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the forward pass, by autocast; the head is always float32."""
    compile: bool = False
    """Compile the encoder's blocks, which takes minutes and a C++ compiler."""
    keep_checkpoints: int = Field(2, ge=1)
    """Best epochs that are kept."""
    average_best: int = Field(1, ge=1)
    """Best epochs whose average is handed on instead of the best; 1: no average."""
    choose_top: int = Field(1, ge=1)
    """Rank of the checkpoint of the phase before to start from; unused in pretrain and with `start`."""
    rank_by: str = "validation"
    """Trials that rank checkpoints: validation or a monitored list; last: the newest first."""
    monitor: tuple[str, ...] = ("vox1_o",)
    """Trial lists measured after every epoch."""
    num_workers: int = Field(4, ge=0)
    """Processes that load examples; 0: the training process."""
    cache_megabytes: int = Field(0, ge=0)
    """Memory of each of these in MB for decoded recordings of a corpus used as it is; 0: none."""
    save_every_steps: int | None = Field(1000, ge=1)
    """Steps between saves of the resume file; null: once an epoch."""
    resume: bool = True
    """Resume an interrupted phase; false: start it anew."""
    allow_changed_augmentation: bool = False
    """Resume also with changed noise clips or RIRs, no longer bit for bit."""
    seed_offset: int = Field(0, ge=0)
    """Number added to the seed, so that every phase draws its own order and augmentation."""

    @model_validator(mode="before")
    @classmethod
    def _skipped(cls, values: Any) -> Any:
        skipped = isinstance(values, dict) and values.get("skip") is True
        return {**values, "epochs": 0} if skipped else values

    @model_validator(mode="after")
    def _possible(self) -> PhaseSettings:
        speed_class_offsets(self.speed_factors)
        if self.sampling.every_speed and len({*self.speed_factors}) < len(self.speed_factors):
            raise ValueError(
                f"speed_factors {[*self.speed_factors]}: with sampling.every_speed none may be there twice"
            )
        known = ("validation", NEWEST_FIRST, *self.monitor)
        if self.rank_by not in known:
            raise ValueError(f"rank_by '{self.rank_by}' must be one of: {', '.join(known)}")
        if self.start is None and self.start_head != "kept":
            raise ValueError(f"start_head '{self.start_head}' needs a saved model to start from, by start")
        if self.gradient_clip_apart and self.gradient_clip_norm is None:
            raise ValueError("gradient_clip_apart needs a norm to clip to: set gradient_clip_norm")
        if self.lora.rank and self.frontend != "frozen":
            raise ValueError(
                f"lora.rank {self.lora.rank} needs frontend frozen: LoRA learns in place of the weights that "
                f"it updates, and frontend is '{self.frontend}'"
            )
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
    def crop_range(self) -> tuple[float, float]:
        """Lowest and highest length of a training example in s."""
        if isinstance(self.crop_seconds, tuple):
            return self.crop_seconds
        return self.crop_seconds, self.crop_seconds

    @property
    def seconds_of_step(self) -> float:
        """Audio of an optimiser step in s, its mean where the length of crops is drawn."""
        return self.examples_per_step * sum(self.crop_range) / 2

    def num_steps(self, examples_of_pass: int) -> int:
        """Optimiser steps of an epoch.

        Args:
            examples_of_pass: training examples of a pass through the corpus.
        """
        return self.steps_per_epoch or examples_of_pass // self.examples_per_step

    @property
    def class_speeds(self) -> tuple[float, ...]:
        """Speeds of the classes: a speaker at another speed is another class."""
        return tuple(speed_class_offsets(self.speed_factors))

    @property
    def speeds_of_pass(self) -> int:
        """Examples of an utterance in a pass through the corpus."""
        return len(self.class_speeds) if self.sampling.every_speed else 1

    @property
    def num_kept(self) -> int:
        """Checkpoints that are kept: the best epochs, and their average where it is handed on."""
        return min(self.keep_checkpoints, max(self.epochs, 1)) + (self.average_best > 1)

    def refuse_other_classes(self, before: Sequence[float]) -> None:
        """Refuse speeds at which the phase before has no classes, or has them in another order.

        Args:
            before: speeds of its head's classes.

        Raises:
            ParameterError: naming `speed_factors`.
        """
        own = self.class_speeds
        if own != tuple(before)[: len(own)] and not (self.cut_head and {*own} <= {*before}):
            raise ParameterError(
                f"parameter 'speed_factors' has classes at {listed(own)}, and the head of the phase before "
                f"has them at {listed(before)}: take the first of these, or with cut_head any of them"
            )
