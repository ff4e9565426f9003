"""The whole parameters tree, typed and closed: checked before any node runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.configuration import Settings
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.models.settings import MarginHeadSettings, ModelSettings
from speaker_verification.scoring.settings import EmbedSettings, ScoreSettings
from speaker_verification.training.phase import PhaseSettings


class Parameters(Settings):
    """All that `conf/*/parameters*.yml` and `--params` may say."""

    recipe: str
    quick_check: int | None = Field(ge=1)
    seed: int = Field(ge=0)
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    prepare: PrepareSettings
    model: ModelSettings
    head: MarginHeadSettings
    augmentation: AugmentationSettings
    pretrain: PhaseSettings
    finetune: PhaseSettings
    lmft: PhaseSettings
    embed: EmbedSettings
    score: ScoreSettings


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse a tree that no pipeline could run with.

    Raises:
        ParameterError: naming every offending parameter, with the nearest known name for an unknown one.
    """
    Parameters.parse(parameters, "")
