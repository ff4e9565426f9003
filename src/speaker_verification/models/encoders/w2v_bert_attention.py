"""Fused attention of W2V-BERT 2.0, without a position embedding for every pair of frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

from speaker_verification.models.encoders.wavlm_attention import split_heads


class FusedW2vBertAttention(Wav2Vec2BertSelfAttention):
    """Self-attention with relative keys, through torch's fused product.

    Parameters and, to rounding, results are those of the parent class, which repeats the embedding of every
    distance for all pairs of frames, (T, T, d).

    Source: P. Shaw et al., Self-Attention with Relative Position Representations, NAACL 2018, equation 4.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend over frames.

        Args:
            hidden_states: (B, T, D).
            attention_mask: added to the logits, (B, 1, T, T); None: no padding.
            relative_position_embeddings: of other kinds of positions; unused.

        Returns:
            (B, T, D), and no weights.
        """
        query, key, value = (
            split_heads(projection(hidden_states), self.head_size)
            for projection in (self.linear_q, self.linear_k, self.linear_v)
        )
        bias = position_bias(self, query)
        if attention_mask is not None:
            bias = bias + attention_mask
        dropout = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.linear_out(mixed.transpose(1, 2).flatten(start_dim=2)), None


def position_bias(attention: Wav2Vec2BertSelfAttention, query: Tensor) -> Tensor:
    """Scaled products of the queries (B, h, T, d) with the embedding of each key's distance, (B, h, T, T).

    Every query is multiplied with each embedding once; distances beyond the table share its ends.
    """
    left, right = attention.left_max_position_embeddings, attention.right_max_position_embeddings
    products = query @ attention.distance_embedding.weight.to(query.dtype).T  # (B, h, T, left + 1 + right)
    frames = torch.arange(query.shape[2], device=query.device)
    distances = (frames - frames[:, None]).clamp(-left, right) + left  # (T, T)
    return products.gather(3, distances.expand(*query.shape[:2], -1, -1)) * attention.scaling
