"""Modules of a block that pruning has left no unit, in place of those that torch cannot compute without."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class HeadlessAttention(nn.Module):
    """Attention of wav2vec 2.0 without heads: the bias of its output in every frame."""

    output: ClassVar[str] = "out_proj"

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Output (B, T, D) for states (B, T, D), and no weights."""
        output: Any = getattr(self, self.output)
        return output.bias.expand_as(hidden_states), None


class HeadlessW2vBertAttention(HeadlessAttention):
    """Attention of W2V-BERT without heads."""

    output = "linear_out"


class ChannellessConvolution(nn.Module):
    """Convolution module of W2V-BERT without channels: zeros, since its last convolution has no bias."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Output (B, T, D) for states (B, T, D)."""
        return hidden_states.new_zeros(()).expand_as(hidden_states)
