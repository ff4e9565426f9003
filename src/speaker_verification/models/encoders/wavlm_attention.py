"""Fused attention of WavLM, without the attention weights that transformers computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

KEPT_HEADS = "kept_heads"  # buffer of a block that pruning has taken heads from


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
            position_bias: (H, T, T), computed by the first block; None in the first block. H is the number
                of heads that blocks have before pruning, h that of this one.
            index: number of the block; unused, as in the parent class.

        Returns:
            (B, T, D), no weights, and the position bias for the next block.
        """
        if position_bias is None:
            position_bias = position_biases(self, hidden_states.shape[1])
        if not self.num_heads:
            return self.out_proj.bias.expand_as(hidden_states), None, position_bias
        bias = bias_gates(self, hidden_states) * of_kept_heads(self, position_bias, 0)  # (B, h, T, T)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], -torch.inf)
        query, key, value = (
            split_heads(projection(hidden_states), self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(start_dim=2)), None, position_bias


def split_heads(x: Tensor, width: int) -> Tensor:
    """(B, T, h * d) -> (B, h, T, d), for heads of a width d."""
    return x.unflatten(2, (-1, width)).transpose(1, 2)


def bias_gates(attention: WavLMAttention, hidden_states: Tensor) -> Tensor:
    """Factor of the position bias for every query of states (B, T, D): (B, h, T, 1)."""
    by_head = split_heads(hidden_states, attention.head_dim)  # (B, H, T, d)
    gates = attention.gru_rel_pos_linear(of_kept_heads(attention, by_head, 1))  # (B, h, T, 8)
    update, reset = gates.unflatten(3, (2, 4)).sum(dim=4).sigmoid().split(1, dim=3)
    return update * (reset * attention.gru_rel_pos_const - 1) + 2


def keep_heads(attention: WavLMAttention, heads: Sequence[int]) -> None:
    """Remember which heads pruning has kept, whose position biases are those of the original heads.

    Args:
        attention: attention of a block.
        heads: numbers of the kept heads, as they were before the cut.
    """
    index = torch.tensor(heads, dtype=torch.long, device=attention.out_proj.weight.device)
    earlier = getattr(attention, KEPT_HEADS, None)
    attention.register_buffer(KEPT_HEADS, index if earlier is None else earlier[index], persistent=False)


def of_kept_heads(attention: WavLMAttention, x: Tensor, dim: int) -> Tensor:
    """Entries of the block's own h heads among those of all H original heads, along a dimension."""
    heads = getattr(attention, KEPT_HEADS, None)
    return x if heads is None else x.index_select(dim, heads)


def position_biases(attention: WavLMAttention, num_frames: int) -> Tensor:
    """Position biases of every query and key, (H, T, T).

    Those of the parent class's `compute_bias`, without the wait for the GPU of some of its versions.
    """
    by_offset = offset_biases(attention, num_frames)  # (h, 2T - 1)
    frames = torch.arange(num_frames, device=by_offset.device)
    return by_offset[:, frames - frames[:, None] + num_frames - 1]


def offset_biases(attention: WavLMAttention, num_frames: int) -> Tensor:
    """Position biases by the offset of the key from the query, -(T - 1) to T - 1: (H, 2T - 1).

    Args:
        attention: attention of the first block, which has the table.
        num_frames: T.
    """
    table = attention.rel_attn_embed
    offsets = torch.arange(1 - num_frames, num_frames, device=table.weight.device)
    return table(attention._relative_positions_bucket(offsets)).T
