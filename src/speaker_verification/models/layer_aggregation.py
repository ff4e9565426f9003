"""From the L+1 states of an encoder to one sequence of frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speaker_verification.errors import ParameterError
from speaker_verification.models.frontend import stack_states


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
        self.output_width = output_width
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

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Aggregate states.

        Args:
            states: L+1 tensors of shape (B, T, D).

        Returns:
            (B, D', T).
        """
        x = stack_states(states)  # (B, T, L+1, D)
        batch, frames, num_states, width = x.shape
        x = self.in_projection(self.in_norm(x.reshape(-1, width)))  # (B*T*(L+1), D)
        x = x.view(batch * frames, num_states, self.num_heads, -1)  # (B*T, L+1, h, d)
        weights = self._excite(x.mean(dim=-1)) + self._excite(x.amax(dim=-1))  # (B*T, L+1, h)
        weights = self.dropout(weights.sigmoid())
        x = (x * weights.unsqueeze(-1)).amax(dim=1)  # (B*T, h, d)
        x = self.out_norm(self.out_projection(x.reshape(batch * frames, width)))  # (B*T, D')
        return x.view(batch, frames, -1).transpose(1, 2)  # (B, D', T)

    def _excite(self, summary: Tensor) -> Tensor:
        """One logit per state from one number per state: (B*T, L+1, h) -> (B*T, L+1, h)."""
        heads_first = summary.permute(2, 0, 1)  # (h, B*T, L+1)
        squeezed = torch.relu(torch.baddbmm(self.squeeze_bias, heads_first, self.squeeze_weight))
        return torch.baddbmm(self.excite_bias, squeezed, self.excite_weight).permute(1, 2, 0)
