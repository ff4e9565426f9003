"""From the L+1 states of an encoder to one sequence of frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speaker_verification.errors import ParameterError
from speaker_verification.models.frontend import stack_states
from speaker_verification.models.settings import LayerAggregationSettings


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


class LayerAttentivePooling(nn.Module):
    """LAP: every head weighs the states of every frame, then keeps the largest of them.

    A squeeze-excite pair, shared by the mean and the maximum over a head's channels, gives one weight per
    state; the scaled states are max-pooled over the states.

    Source: J. S. Kim et al., Rethinking Leveraging Pre-Trained Multi-Layer Representations for Speaker
    Verification, Interspeech 2025, section 3.

    Args:
        num_states: L+1.
        width: D, channels of a state.
        output_width: D', channels of a frame after aggregation.
        num_heads: h, a divisor of D; with one head the projection of the states is skipped.
        dropout: probability of dropping a weight.

    Raises:
        ParameterError: num_heads does not divide the width.
    """

    def __init__(
        self, num_states: int, width: int, output_width: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ParameterError(
                f"parameter 'model.layer_aggregation.lap.num_heads' is {num_heads}: "
                f"it must divide the encoder's width {width}"
            )
        self.num_heads = num_heads
        squeezed = num_states // 2
        self.in_norm = nn.BatchNorm1d(width)
        self.in_projection = nn.Linear(width, width) if num_heads > 1 else nn.Identity()
        self.squeeze_weight = nn.Parameter(torch.empty(num_heads, num_states, squeezed))
        self.squeeze_bias = nn.Parameter(torch.zeros(num_heads, 1, squeezed))
        self.excite_weight = nn.Parameter(torch.empty(num_heads, squeezed, num_states))
        self.excite_bias = nn.Parameter(torch.zeros(num_heads, 1, num_states))
        self.dropout = nn.Dropout(dropout)
        self.out_projection = nn.Linear(width, output_width)
        self.out_norm = nn.BatchNorm1d(output_width)
        nn.init.xavier_uniform_(self.squeeze_weight)
        nn.init.xavier_uniform_(self.excite_weight)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Aggregate states.

        Args:
            states: L+1 tensors of shape (B, T, D).

        Returns:
            (B, D', T).
        """
        batch, frames, width = states[0].shape
        x = self._project(states)  # (B*T, L+1, h, d)
        weights = self.dropout(self._weigh(x))  # (B*T, L+1, h)
        x = (x * weights.unsqueeze(-1)).amax(dim=1)  # (B*T, h, d)
        x = self.out_norm(self.out_projection(x.reshape(batch * frames, width)))  # (B*T, D')
        return x.view(batch, frames, -1).transpose(1, 2)  # (B, D', T)

    def attention_weights(self, states: Sequence[Tensor]) -> Tensor:
        """Weight of every state for every head and frame, (B, h, T, L+1), each in 0..1."""
        batch, frames, _ = states[0].shape
        weights = self._weigh(self._project(states))  # (B*T, L+1, h)
        return weights.view(batch, frames, *weights.shape[1:]).permute(0, 3, 1, 2)

    def _project(self, states: Sequence[Tensor]) -> Tensor:
        """Normed and projected states, split into heads: L+1 x (B, T, D) -> (B*T, L+1, h, d)."""
        x = stack_states(states)  # (B, T, L+1, D)
        x = self.in_projection(self.in_norm(x.reshape(-1, x.shape[3])))  # (B*T*(L+1), D)
        return x.view(-1, len(states), self.num_heads, x.shape[1] // self.num_heads)

    def _weigh(self, x: Tensor) -> Tensor:
        """(B*T, L+1, h, d) -> (B*T, L+1, h)."""
        return (self._excite(x.mean(dim=-1)) + self._excite(x.amax(dim=-1))).sigmoid()

    def _excite(self, summary: Tensor) -> Tensor:
        """One logit per state from one number per state: (B*T, L+1, h) -> (B*T, L+1, h)."""
        heads_first = summary.permute(2, 0, 1)  # (h, B*T, L+1)
        squeezed = torch.relu(torch.baddbmm(self.squeeze_bias, heads_first, self.squeeze_weight))
        return torch.baddbmm(self.excite_bias, squeezed, self.excite_weight).permute(1, 2, 0)


LayerAggregation = WeightedSum | LayerAttentivePooling


def build_layer_aggregation(
    settings: LayerAggregationSettings, num_states: int, width: int
) -> LayerAggregation:
    """The chosen aggregation of L+1 states of a width D.

    Raises:
        ParameterError: the settings do not fit the width.
    """
    if settings.kind == "weighted_sum":
        return WeightedSum(num_states)
    return LayerAttentivePooling(num_states, width, **settings.lap.model_dump())
