"""Fused attention of W2V-BERT 2.0, without a position embedding for every pair of frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

from speaker_verification.models.encoders.wavlm_attention import split_heads

LOGITS_AT_ONCE = 6_000_000  # on a CPU: more than 32 MB would be fresh pages of the system in every call


class FusedW2vBertAttention(Wav2Vec2BertSelfAttention):
    """Self-attention with relative keys, in fewer and smaller steps than transformers'.

    Parameters and, to rounding, results are those of the parent class, which repeats the embedding of every
    distance for all pairs of frames, (T, T, d). The product is torch's fused one; on a CPU, where that one
    gives no gradient to a bias, it is computed for one utterance at a time, whose logits stay in the cache.

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
        rows = table_rows(self, hidden_states.shape[1], hidden_states.device)
        dropout = self.dropout.p if self.training else 0.0
        alone = hidden_states.device.type == "cpu" and not torch.compiler.is_compiling()
        if alone and attention_mask is None:
            utterances = zip(query.unbind(), key.unbind(), value.unbind(), strict=True)
            blocks = [block for utterance in utterances for block in self._attend(*utterance, rows, dropout)]
            mixed = torch.cat(blocks).unflatten(0, hidden_states.shape[:2])
        else:
            bias = position_bias(self, query, rows)
            if attention_mask is not None:
                bias = bias + attention_mask
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, dropout_p=dropout
            )
            mixed = mixed.transpose(1, 2).flatten(start_dim=2)  # (B, h, T, d) -> (B, T, D)
        return self.linear_out(mixed), None

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, dropout: float
    ) -> Iterator[Tensor]:
        """Attend over the frames of one utterance, some queries at a time: (N, D), then for the next N.

        Args:
            query, key, value: (h, T, d).
            rows: see `table_rows`.
            dropout: probability of dropping a weight.
        """
        num_queries = max(LOGITS_AT_ONCE // rows.shape[1] // self.num_heads, 1)
        for queries, places in zip(query.split(num_queries, 1), rows.split(num_queries), strict=True):
            logits = position_bias(self, queries, places).baddbmm_(queries, key.mT, alpha=self.scaling)
            mixed = functional.dropout(logits.softmax(dim=2), dropout) @ value  # (h, N, d)
            yield mixed.transpose(0, 1).flatten(start_dim=1)


def position_bias(attention: Wav2Vec2BertSelfAttention, query: Tensor, rows: Tensor) -> Tensor:
    """Scaled products of the queries with the embedding of each key's distance, (..., h, N, T).

    Every query is multiplied with each embedding once.

    Args:
        attention: attention with the table of embeddings.
        query: N queries, (..., h, N, d).
        rows: row of the table for every query and key, (N, T).
    """
    table = attention.distance_embedding.weight.to(query.dtype) * attention.scaling
    products = query @ table.T  # (..., h, N, rows of the table)
    return products.gather(-1, rows.expand(*query.shape[:-2], -1, -1))


def table_rows(attention: Wav2Vec2BertSelfAttention, num_frames: int, device: torch.device) -> Tensor:
    """Row of the table of embeddings for every query and key, (T, T).

    Rows are ordered by the distance of the key from the query; distances beyond the table share its ends.
    """
    left, right = attention.left_max_position_embeddings, attention.right_max_position_embeddings
    frames = torch.arange(num_frames, device=device)
    return (frames - frames[:, None]).clamp(-left, right) + left
