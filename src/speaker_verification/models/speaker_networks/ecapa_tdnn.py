"""ECAPA-TDNN, a time-delay network with squeeze-excitation and attentive pooling."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.parts import tdnn_layer, weighted_statistics, with_context

SCALE = 8
DILATIONS = (2, 3, 4)
VARIANCE_FLOOR = 1e-7


class EcapaTdnnSettings(Settings):
    """ECAPA-TDNN with 512 channels."""

    embedding_size: int = Field(192, ge=1)
    """Embedding size."""
    channels: int = Field(512, ge=8, multiple_of=8)
    """Channels of the blocks."""
    pooled_channels: int = Field(1536, ge=1)
    """Channels of the pooled layer."""
    bottleneck_channels: int = Field(128, ge=1)
    """Channels of the attention's bottleneck."""


class EcapaTdnn(SpeakerNetwork):
    """Squeeze-excited Res2 blocks, all of whose outputs are pooled by attention with global context.

    Source: B. Desplanques et al., ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in
    TDNN Based Speaker Verification, Interspeech 2020; without the BatchNorm after the last layer.

    Args:
        width: channels C of a frame.
        settings: embedding size E; channels of the blocks (a multiple of 8), of the pooled frames, and of
            the bottlenecks in the squeeze-excite pairs and in the attention.
    """

    Settings = EcapaTdnnSettings
    minimum_frames = 2  # a standard deviation needs two

    def __init__(self, width: int, settings: EcapaTdnnSettings) -> None:
        super().__init__(settings.embedding_size)
        channels, pooled_channels = settings.channels, settings.pooled_channels
        bottleneck_channels = settings.bottleneck_channels
        self.input_layer = tdnn_layer(width, channels, kernel_size=5, padding=2)
        self.blocks = nn.ModuleList(
            SqueezeExciteRes2Block(channels, dilation, bottleneck_channels) for dilation in DILATIONS
        )
        self.aggregation = nn.Conv1d(len(DILATIONS) * channels, pooled_channels, kernel_size=1)
        self.attention = nn.Sequential(
            nn.Conv1d(3 * pooled_channels, bottleneck_channels, kernel_size=1),
            nn.Tanh(),
            nn.Conv1d(bottleneck_channels, pooled_channels, kernel_size=1),
        )
        self.pooled_norm = nn.BatchNorm1d(2 * pooled_channels)
        self.projection = nn.Linear(2 * pooled_channels, settings.embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool frames.

        Args:
            x: (B, C, T) with T at least 2.

        Returns:
            (B, E).
        """
        x = self._aggregate(x)
        statistics = weighted_statistics(x, self._weigh(x), VARIANCE_FLOOR)
        return self.projection(self.pooled_norm(statistics))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Weight of every pooled channel and frame, (B, pooled channels, T); over time they sum to one."""
        return self._weigh(self._aggregate(x))

    def _aggregate(self, x: Tensor) -> Tensor:
        """Frames that are pooled: (B, C, T) -> (B, pooled channels, T)."""
        x = self.input_layer(x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.aggregation(torch.cat(outputs, dim=1)).relu()

    def _weigh(self, x: Tensor) -> Tensor:
        deviation = (x.var(dim=2, keepdim=True) + VARIANCE_FLOOR).sqrt()
        return self.attention(with_context(x, x.mean(dim=2, keepdim=True), deviation)).softmax(dim=2)


class SqueezeExciteRes2Block(nn.Module):
    """Res2 convolutions between two of kernel 1, then a gate for every channel, with a skip connection.

    Args:
        channels: number of channels of input and output.
        dilation: dilation of the Res2 convolutions.
        bottleneck_channels: hidden channels of the gate.
    """

    def __init__(self, channels: int, dilation: int, bottleneck_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            tdnn_layer(channels, channels),
            Res2Convolution(channels, dilation),
            tdnn_layer(channels, channels),
        )
        self.gate = nn.Sequential(
            nn.Linear(channels, bottleneck_channels),
            nn.ReLU(),
            nn.Linear(bottleneck_channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) -> (B, channels, T)."""
        out = self.convolutions(x)
        return x + out * self.gate(out.mean(dim=2)).unsqueeze(2)


class Res2Convolution(nn.Module):
    """Convolves each eighth of the channels, the result of the one before added; the last stays as it is."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // SCALE
        self.layers = nn.ModuleList(
            tdnn_layer(width, width, kernel_size=3, dilation=dilation, padding=dilation)
            for _ in range(SCALE - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) -> (B, channels, T)."""
        first, *others, last = x.chunk(SCALE, dim=1)
        outputs = [self.layers[0](first)]
        for layer, part in zip(self.layers[1:], others, strict=True):
            outputs.append(layer(outputs[-1] + part))
        return torch.cat([*outputs, last], dim=1)
