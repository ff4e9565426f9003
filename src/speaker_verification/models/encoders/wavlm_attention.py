"""Fused attention of WavLM, without the attention weights that transformers computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class FusedWavLMAttention(WavLMAttention):
    """Self-attention with a gated relative position bias, through torch's fused product.

    Parameters and, to rounding, results are those of the parent class, which in addition repeats the bias for
    every utterance and returns the attention weights averaged over the heads.

    Source: S. Chen et al., WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing,
    IEEE JSTSP 2022, section III-B.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,
        **_: Any,
    ) -> tuple[Tensor, None, Any]:
        """Attend over frames.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, T), 1 for a frame and 0 for padding; None: no padding.
            position_bias: (h, T, T), computed by the first block; None in the first block.
            index: number of the block; unused, as in the parent class.

        Returns:
            (B, T, D), no weights, and the position bias for the next block.
        """
        if position_bias is None:
            position_bias = position_biases(self, hidden_states.shape[1])
        bias = bias_gates(self, hidden_states) * position_bias  # (B, h, T, T)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], -torch.inf)
        query, key, value = (
            split_heads(projection(hidden_states), self.num_heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(start_dim=2)), None, position_bias


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, h, T, d)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def bias_gates(attention: WavLMAttention, hidden_states: Tensor) -> Tensor:
    """Factor of the position bias for every query of states (B, T, D): (B, h, T, 1)."""
    gates = attention.gru_rel_pos_linear(split_heads(hidden_states, attention.num_heads))  # (B, h, T, 8)
    update, reset = gates.unflatten(3, (2, 4)).sum(dim=4).sigmoid().split(1, dim=3)
    return update * (reset * attention.gru_rel_pos_const - 1) + 2


def position_biases(attention: WavLMAttention, num_frames: int) -> Tensor:
    """Position biases of every query and key, (h, T, T).

    Those of the parent class's `compute_bias`, without the wait for the GPU of some of its versions.
    """
    by_offset = offset_biases(attention, num_frames)  # (h, 2T - 1)
    frames = torch.arange(num_frames, device=by_offset.device)
    return by_offset[:, frames - frames[:, None] + num_frames - 1]


def offset_biases(attention: WavLMAttention, num_frames: int) -> Tensor:
    """Position biases by the offset of the key from the query, -(T - 1) to T - 1: (h, 2T - 1).

    Args:
        attention: attention of the first block, which has the table.
        num_frames: T.
    """
    table = attention.rel_attn_embed
    offsets = torch.arange(1 - num_frames, num_frames, device=table.weight.device)
    return table(attention._relative_positions_bucket(offsets)).T
