"""Multi-head factorised attentive pooling."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.speaker_networks.base import SpeakerNetwork


class MhfaSettings(Settings):
    """Multi-head factorised attentive pooling, of the size that LAP was compared with."""

    embedding_size: int = Field(256, ge=1)
    """Embedding size."""
    num_heads: int = Field(64, ge=1)
    """Attention heads."""
    compressed_width: int = Field(128, ge=1)
    """Width of compressed keys and values."""


class MultiHeadFactorisedAttentivePooling(SpeakerNetwork):
    """MHFA: keys say for every head which frames count, and every head averages the same values.

    Keys and values are aggregated from the states apart.

    Source: J. Peng et al., An Attention-Based Backend Allowing Efficient Fine-Tuning of Transformer Models
    for Speaker Verification, SLT 2022, section 3.

    Args:
        width: channels C of keys and of values.
        settings: embedding size E; number of heads h; compressed width c, channels of keys and values after
            their linear layers.
    """

    Settings = MhfaSettings
    inputs = ("key", "value")
    minimum_frames = 1

    def __init__(self, width: int, settings: MhfaSettings) -> None:
        super().__init__(settings.embedding_size)
        num_heads, compressed_width = settings.num_heads, settings.compressed_width
        self.key_projection = nn.Linear(width, compressed_width)
        self.value_projection = nn.Linear(width, compressed_width)
        self.head_logits = nn.Linear(compressed_width, num_heads)
        self.projection = nn.Linear(num_heads * compressed_width, settings.embedding_size)

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        """Pool frames.

        Args:
            key: (B, C, T).
            value: (B, C, T).

        Returns:
            (B, E).
        """
        values = self.value_projection(value.transpose(1, 2))  # (B, T, c)
        pooled = self.attention_weights(key) @ values  # (B, h, c)
        return self.projection(pooled.flatten(start_dim=1))

    def attention_weights(self, key: Tensor, _value: Tensor | None = None) -> Tensor:
        """Weight of every head and frame, (B, h, T); over time they sum to one."""
        logits = self.head_logits(self.key_projection(key.transpose(1, 2)))  # (B, T, h)
        return logits.transpose(1, 2).softmax(dim=2)
