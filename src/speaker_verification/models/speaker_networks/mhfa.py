"""Multi-head factorised attentive pooling, also with context (MHFA, CA-MHFA)."""

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
    context: int = Field(0, ge=0, multiple_of=2)
    """Neighbouring frames whose keys a head's query covers, half on each side (CA-MHFA); 0: MHFA."""


class MultiHeadFactorisedAttentivePooling(SpeakerNetwork):
    """MHFA: keys say for every head which frames count, and every head averages the same values.

    Keys and values are aggregated from the states apart. With a context of R frames (CA-MHFA), a head's query
    covers the keys of R+1 frames: a convolution over time without a bias, with R/2 zeros on both sides.

    Source: J. Peng et al., An Attention-Based Backend Allowing Efficient Fine-Tuning of Transformer Models
    for Speaker Verification, SLT 2022, section 3; J. Peng et al., CA-MHFA: A Context-Aware Multi-Head
    Factorized Attentive Pooling for SSL-Based Speaker Verification, ICASSP 2025, whose equation divides by
    R+1 what its public code, as here, adds up.

    Args:
        width: channels C of keys and of values.
        settings: embedding size E; number of heads h (groups, in CA-MHFA); compressed width c, channels of
            keys and values after their linear layers; context R.
    """

    Settings = MhfaSettings
    inputs = ("key", "value")
    minimum_frames = 1

    def __init__(self, width: int, settings: MhfaSettings) -> None:
        super().__init__(settings.embedding_size)
        num_heads, compressed_width = settings.num_heads, settings.compressed_width
        self.key_projection = nn.Linear(width, compressed_width)
        self.value_projection = nn.Linear(width, compressed_width)
        self.context = settings.context
        self.head_logits: nn.Module = (
            nn.Conv1d(compressed_width, num_heads, self.context + 1, padding=self.context // 2, bias=False)
            if self.context
            else nn.Linear(compressed_width, num_heads)
        )
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
        keys = self.key_projection(key.transpose(1, 2))  # (B, T, c)
        if self.context:
            return self.head_logits(keys.transpose(1, 2)).softmax(dim=2)
        return self.head_logits(keys).transpose(1, 2).softmax(dim=2)
