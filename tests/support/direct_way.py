"""The direct way, written straight from the formulas: the reference of tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.layer_aggregation import LayerAttentivePooling


class DirectLap(nn.Module):
    """LAP on one tensor of all states, one operation after the other, with the weights of a module of ours.

    Source: J. S. Kim et al., Rethinking Leveraging Pre-Trained Multi-Layer Representations for Speaker
    Verification, Interspeech 2025, section 3.
    """

    def __init__(self, lap: LayerAttentivePooling) -> None:
        super().__init__()
        self.lap = lap

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """L+1 states (B, T, D) -> (B, D', T)."""
        lap = self.lap
        x = torch.stack(tuple(states), dim=3).permute(0, 2, 1, 3)  # (B, D, T, L+1)
        norm = lap.in_norm
        if norm.training:
            norm.num_batches_tracked += 1
        x = functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps
        )
        if isinstance(lap.in_projection, nn.Linear):
            x = functional.conv2d(x, lap.in_projection.weight[:, :, None, None], lap.in_projection.bias)
        x = x.unflatten(1, (lap.num_heads, -1)).permute(0, 3, 1, 2, 4).flatten(end_dim=1)  # (B*T, h, d, L+1)
        logits = self._excite(x.mean(dim=2, keepdim=True)) + self._excite(x.max(dim=2, keepdim=True).values)
        x = (x * lap.dropout(logits.sigmoid())).max(dim=3).values  # (B*T, h, d)
        x = x.flatten(start_dim=1).view(len(states[0]), -1, norm.num_features).transpose(1, 2)  # (B, D, T)
        return lap.out_norm(
            functional.conv1d(x, lap.out_projection.weight[:, :, None], lap.out_projection.bias)
        )

    def _excite(self, summary: Tensor) -> Tensor:
        """(B*T, h, 1, L+1) -> (B*T, h, 1, L+1)."""
        squeezed = functional.relu(summary @ self.lap.squeeze_weight + self.lap.squeeze_bias)
        return squeezed @ self.lap.excite_weight + self.lap.excite_bias


class DirectHead(SubcentreMarginHead):
    """The margin head with every centre scaled to length 1 before the product."""

    def _class_cosines(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        centres = functional.normalize(weight, dim=1)  # (K, E, C)
        return (functional.normalize(embeddings, dim=1) @ centres).amax(dim=0)  # (B, C)
