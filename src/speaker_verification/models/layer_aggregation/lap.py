"""Layer attentive pooling (LAP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.distributed import processes
from speaker_verification.models.batch_statistics import track_moments, whole_batch_moments
from speaker_verification.models.layer_aggregation.base import AggregationSettings, Fault, LayerAggregation
from speaker_verification.models.layer_aggregation.layer_pooling import (
    LapParameters,
    Standardisation,
    moments,
    pool_states,
    state_weights,
)


class LapSettings(AggregationSettings):
    """Layer attentive pooling as published."""

    num_heads: int = Field(16, ge=1)
    """Heads, a divisor of the encoder's width."""
    output_width: int = Field(512, ge=1)
    """Channels of a frame after aggregation."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate of a head's weights."""

    def frame_width(self, _num_states: int, _width: int) -> int:
        return self.output_width

    def faults(self, width: int) -> Iterator[Fault]:
        if width % self.num_heads:
            yield Fault("num_heads", self.num_heads, f"it must divide the encoder's width {width}")


class LayerAttentivePooling(LayerAggregation):
    """LAP: every head weighs the states of every frame, then max-pools over them.

    A squeeze-excite pair, shared by the mean and the maximum over a head's channels, gives one weight per
    state; the scaled states are max-pooled over the states.

    Source: J. S. Kim et al., Rethinking Leveraging Pre-Trained Multi-Layer Representations for Speaker
    Verification, Interspeech 2025, section 3.

    Args:
        num_states: L+1.
        width: D, channels of a state.
        settings: number of heads h, a divisor of D (with one head the projection of the states is skipped);
            output width D', channels of a frame after aggregation; probability of dropping a weight.

    Raises:
        ParameterError: num_heads does not divide the width.
    """

    Settings = LapSettings

    def __init__(self, num_states: int, width: int, settings: LapSettings) -> None:
        super().__init__(num_states, width, settings)
        num_heads, output_width = settings.num_heads, settings.output_width
        self.num_heads = num_heads
        squeezed = num_states // 2
        self.in_norm = nn.BatchNorm1d(width)
        self.in_projection = nn.Linear(width, width) if num_heads > 1 else nn.Identity()
        self.squeeze_weight = nn.Parameter(torch.empty(num_heads, num_states, squeezed))
        self.squeeze_bias = nn.Parameter(torch.zeros(num_heads, 1, squeezed))
        self.excite_weight = nn.Parameter(torch.empty(num_heads, squeezed, num_states))
        self.excite_bias = nn.Parameter(torch.zeros(num_heads, 1, num_states))
        self.dropout = nn.Dropout(settings.dropout)
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
        batch, frames, _ = states[0].shape
        vectors = [state.flatten(end_dim=1) for state in states]  # L+1 x (B*T, D)
        dropout = self.dropout.p if self.training else 0.0
        x = pool_states(vectors, self._standardisation(vectors), self._learnt(), dropout)  # (B*T, D)
        x = self.out_norm(self.out_projection(x))  # (B*T, D')
        return x.view(batch, frames, -1).transpose(1, 2)  # (B, D', T)

    def attention_weights(self, states: Sequence[Tensor]) -> Tensor:
        """Weight of every state for every head and frame, (B, h, T, L+1), each in 0..1; no gradient."""
        vectors = [state.flatten(end_dim=1) for state in states]
        weights = state_weights(vectors, self._standardisation(vectors), self._learnt())  # (h, B*T, L+1)
        return weights.unflatten(1, states[0].shape[:2]).transpose(0, 1)

    def _learnt(self) -> LapParameters:
        norm, projection = self.in_norm, self.in_projection
        matrix: Tensor
        offset: Tensor
        if isinstance(projection, nn.Linear):
            matrix, offset = projection.weight, projection.bias
        else:
            matrix, offset = torch.diag(torch.ones_like(norm.weight)), torch.zeros_like(norm.bias)
        excitation = (self.squeeze_weight, self.squeeze_bias, self.excite_weight, self.excite_bias)
        return LapParameters(norm.weight, norm.bias, matrix, offset, *excitation)

    def _standardisation(self, vectors: Sequence[Tensor]) -> Standardisation:
        """By the states' own statistics in training, which the running ones follow, else by the latter."""
        norm = self.in_norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not norm.training:
            return Standardisation(norm.running_mean, (norm.running_var + norm.eps).rsqrt(), 0)
        with torch.no_grad():
            mean, variance = whole_batch_moments(*moments(vectors))
            count = len(vectors) * len(vectors[0]) * processes().size
            track_moments(norm, mean, variance, count)
        return Standardisation(mean, (variance + norm.eps).rsqrt(), count)
