"""Layers that several speaker networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tdnn_layer(
    in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1, padding: int = 0
) -> nn.Sequential:
    """Convolution over time, ReLU and BatchNorm, in this order."""
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding),
        nn.ReLU(),
        nn.BatchNorm1d(out_channels),
    )


def with_context(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Frames with the mean and deviation (B, C, 1) over time appended: (B, C, T) -> (B, 3C, T)."""
    return torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], dim=1)


def weighted_statistics(x: Tensor, weights: Tensor, variance_floor: float) -> Tensor:
    """Weighted mean and standard deviation over time, (B, C, T) -> (B, 2C); weights sum to one over T."""
    mean = (weights * x).sum(dim=2)
    variance = (weights * x.square()).sum(dim=2) - mean.square()
    return torch.cat([mean, variance.clamp(min=variance_floor).sqrt()], dim=1)
