"""Time-delay neural network of the x-vector."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.parts import tdnn_layer

ADDED_VARIANCE = 1e-7


class XVectorSettings(Settings):
    """Time-delay network of the x-vector."""

    embedding_size: int = Field(512, ge=1)
    """Embedding size."""
    channels: int = Field(512, ge=1)
    """Channels of the frame layers."""
    pooled_channels: int = Field(1500, ge=1)
    """Channels of the last frame layer, which is pooled."""


class XVector(SpeakerNetwork):
    """Five time-delay layers, mean and (unbiased) standard deviation over time, and a linear layer.

    The layers see 15 frames, and T frames become T - 6. While training a second linear layer after a ReLU
    stands between the embedding and the margin head.

    Source: D. Snyder et al., X-vectors: Robust DNN Embeddings for Speaker Recognition, ICASSP 2018, table 1,
    padded as in LAP's comparison.

    Args:
        width: channels C of a frame.
        settings: embedding size E; channels of the first four layers and of the fifth, which is pooled.
    """

    Settings = XVectorSettings
    minimum_frames = 8  # two are left, and a standard deviation needs two

    def __init__(self, width: int, settings: XVectorSettings) -> None:
        super().__init__(settings.embedding_size)
        channels, pooled_channels = settings.channels, settings.pooled_channels
        self.layers = nn.Sequential(
            tdnn_layer(width, channels, kernel_size=5, padding=2),
            tdnn_layer(channels, channels, kernel_size=3, dilation=2, padding=1),
            tdnn_layer(channels, channels, kernel_size=3, dilation=3, padding=1),
            tdnn_layer(channels, channels),
            tdnn_layer(channels, pooled_channels),
        )
        self.projection = nn.Linear(2 * pooled_channels, settings.embedding_size)
        self.loss_projection = nn.Linear(settings.embedding_size, settings.embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool frames.

        Args:
            x: (B, C, T) with T at least 8.

        Returns:
            (B, E).
        """
        x = self.layers(x)  # (B, pooled channels, T - 6)
        deviation = (x.var(dim=2) + ADDED_VARIANCE).sqrt()
        return self.projection(torch.cat([x.mean(dim=2), deviation], dim=1))

    def loss_input(self, embeddings: Tensor) -> Tensor:
        return self.loss_projection(embeddings.relu())
