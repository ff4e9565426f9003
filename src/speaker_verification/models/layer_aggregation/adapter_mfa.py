"""Multi-layer feature aggregation with an adapter for every state (adapter MFA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from speaker_verification.models.layer_aggregation.base import AggregationSettings, LayerAggregation


class AdapterMfaSettings(AggregationSettings):
    """Adapters and concatenation, as published with W2V-BERT 2.0."""

    adapter_width: int = Field(128, ge=1)
    """Channels that each state adds to a frame."""

    def frame_width(self, num_states: int, _width: int) -> int:
        """D', channels of a frame: those of all adapters beside each other."""
        return num_states * self.adapter_width


class AdapterMfa(LayerAggregation):
    """Concatenation of the states, each through an adapter of its own.

    An adapter is a linear layer, LayerNorm, ReLU and a linear layer.

    Source: Z. Li et al., Enhancing Speaker Verification with w2v-BERT 2.0 and Knowledge Distillation guided
    Structured Pruning, arXiv 2510.04213, section 2.

    Args:
        num_states: L+1.
        width: D, channels of a state.
        settings: width A of the adapters.
    """

    Settings = AdapterMfaSettings

    def __init__(self, num_states: int, width: int, settings: AdapterMfaSettings) -> None:
        super().__init__(num_states, width, settings)
        adapter_width = settings.adapter_width
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, adapter_width),
                nn.LayerNorm(adapter_width),
                nn.ReLU(),
                nn.Linear(adapter_width, adapter_width),
            )
            for _ in range(num_states)
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Aggregate states.

        Args:
            states: L+1 tensors of shape (B, T, D).

        Returns:
            (B, (L+1) A, T).
        """
        adapted = [adapter(state) for adapter, state in zip(self.adapters, states, strict=True)]
        return torch.cat(adapted, dim=2).transpose(1, 2)
