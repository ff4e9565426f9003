"""Weighted sum of the states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """States weighed by the softmax of one learnt number each, equal at the start.

    Source: S. Yang et al., SUPERB: Speech processing Universal PERformance Benchmark, Interspeech 2021.

    Args:
        num_states: L+1.
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
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
