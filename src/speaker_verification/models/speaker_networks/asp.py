"""Attentive statistics pooling without context (ASP), the speaker network of the W2V-BERT 2.0 system."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.parts import weighted_statistics

VARIANCE_FLOOR = 1e-5


class AspSettings(Settings):
    """Attentive statistics pooling as published with W2V-BERT 2.0."""

    embedding_size: int = Field(256, ge=1)
    """Embedding size."""
    attention_width: int = Field(128, ge=1)
    """Channels of the attention's hidden layer."""


class PlainAttentiveStatisticsPooling(SpeakerNetwork):
    """ASP: channel-dependent attention that sees one frame at a time, weighted mean and standard deviation.

    Source: Z. Li et al., arXiv 2510.04213, section 2, after K. Okabe et al., Attentive Statistics Pooling for
    Deep Speaker Embedding, Interspeech 2018, equations 3 to 6.

    Args:
        width: channels C of a frame.
        settings: embedding size E; width of the attention's hidden layer.
    """

    Settings = AspSettings

    def __init__(self, width: int, settings: AspSettings) -> None:
        super().__init__(settings.embedding_size)
        self.attention = nn.Sequential(
            nn.Conv1d(width, settings.attention_width, kernel_size=1),
            nn.ReLU(),
            nn.BatchNorm1d(settings.attention_width),
            nn.Conv1d(settings.attention_width, width, kernel_size=1),
        )
        self.projection = nn.Linear(2 * width, settings.embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool frames.

        Args:
            x: (B, C, T).

        Returns:
            (B, E).
        """
        return self.projection(weighted_statistics(x, self.attention_weights(x), VARIANCE_FLOOR))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Weight of every channel and frame, (B, C, T); over time they sum to one."""
        return self.attention(x).softmax(dim=2)
