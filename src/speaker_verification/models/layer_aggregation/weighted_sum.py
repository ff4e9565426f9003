"""Weighted sum of the states, as in SUPERB."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speaker_verification.models.layer_aggregation.base import AggregationSettings, LayerAggregation


class WeightedSum(LayerAggregation):
    """Sum of the states, weighed by the softmax of one learnt logit each, equal at the start.

    Source: S. Yang et al., SUPERB: Speech processing Universal PERformance Benchmark, Interspeech 2021.

    Args:
        num_states: L+1.
        width: D, channels of a state.
        settings: none.
    """

    Settings = AggregationSettings

    def __init__(self, num_states: int, width: int, settings: AggregationSettings) -> None:
        super().__init__(num_states, width, settings)
        self.logits = nn.Parameter(torch.full((num_states,), 1 / num_states))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Aggregate states.

        Args:
            states: L+1 tensors of shape (B, T, D).

        Returns:
            (B, D, T).
        """
        weights = self.attention_weights(states)
        x = weights[0] * states[0]
        for weight, state in zip(weights[1:], states[1:], strict=True):
            x = x + weight * state
        return x.transpose(1, 2)

    def attention_weights(self, _states: Sequence[Tensor]) -> Tensor:
        """Weight of every state, (L+1,), the same for all frames."""
        return self.logits.softmax(dim=0)
