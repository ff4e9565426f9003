"""Settings of the speaker model and of its margin head."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from speaker_verification.configuration import Settings


class FrontendSettings(Settings):
    """Which encoder to start from: a checkpoint, or a random one of a given architecture."""

    checkpoint: str | None = "microsoft/wavlm-large"
    architecture: dict[str, Any] | None = None
    last_state: Literal["after", "before"] = "after"

    @model_validator(mode="after")
    def _one_source(self) -> FrontendSettings:
        if (self.checkpoint is None) == (self.architecture is None):
            raise ValueError("give either a checkpoint or an architecture to initialise at random, not both")
        return self


class LayerAggregationSettings(Settings):
    """Layer attentive pooling as published."""

    kind: Literal["lap"] = "lap"
    num_heads: int = Field(16, ge=1)
    output_width: int = Field(512, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class SpeakerNetworkSettings(Settings):
    """Attentive statistics pooling as published with LAP."""

    kind: Literal["astp"] = "astp"
    embedding_size: int = Field(192, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class ModelSettings(Settings):
    """Frontend, layer aggregation and speaker network."""

    frontend: FrontendSettings = FrontendSettings()
    layer_aggregation: LayerAggregationSettings = LayerAggregationSettings()
    speaker_network: SpeakerNetworkSettings = SpeakerNetworkSettings()


class MarginHeadSettings(Settings):
    """What stays the same in all phases; the margins themselves belong to a phase."""

    num_subcentres: int = Field(3, ge=1)
    scale: float = Field(30.0, gt=0)
    continuation: Literal["arcface", "wespeaker"] = "arcface"
