"""Attentive statistics pooling (ASTP), the speaker network that LAP is published with."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.parts import weighted_statistics, with_context

VARIANCE_FLOOR = 1e-4
TINY_VARIANCE = 1e-12  # the root of zero has no finite gradient


class AstpSettings(Settings):
    """Attentive statistics pooling as published with LAP."""

    embedding_size: int = Field(192, ge=1)
    """Embedding size."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate of whole frames in the attention."""


class AttentiveStatisticsPooling(SpeakerNetwork):
    """ASTP: channel-dependent attention over time, then weighted mean and standard deviation.

    The attention sees every frame beside the mean and the (unbiased) standard deviation of all frames. In
    training every frame is left out with the probability `dropout`, the same for all channels.

    Source: J. S. Kim et al., Interspeech 2025, section 3, after B. Desplanques et al., ECAPA-TDNN,
    Interspeech 2020, equations 4 to 7.

    Args:
        width: channels C of a frame.
        settings: embedding size E; probability of leaving a frame out in training.
    """

    Settings = AstpSettings
    minimum_frames = 2  # a standard deviation needs two

    def __init__(self, width: int, settings: AstpSettings) -> None:
        super().__init__(settings.embedding_size)
        self.dropout = settings.dropout
        self.attention = nn.Sequential(
            nn.Conv1d(3 * width, width // 2, kernel_size=1),
            nn.ReLU(),
            nn.BatchNorm1d(width // 2),
            nn.Conv1d(width // 2, width, kernel_size=1),
        )
        self.pooled_norm = nn.BatchNorm1d(2 * width)
        self.projection = nn.Linear(2 * width, settings.embedding_size)
        self.embedding_norm = nn.BatchNorm1d(settings.embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool frames.

        Args:
            x: (B, C, T) with T at least 2.

        Returns:
            (B, E).
        """
        statistics = weighted_statistics(x, self.attention_weights(x), VARIANCE_FLOOR)  # (B, 2C)
        return self.embedding_norm(self.projection(self.pooled_norm(statistics)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Weight of every channel and frame, (B, C, T); over time they sum to one."""
        deviation = x.var(dim=2, keepdim=True).clamp(min=TINY_VARIANCE).sqrt()
        logits = self.attention(with_context(x, x.mean(dim=2, keepdim=True), deviation))
        if self.training:
            left_out = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) < self.dropout
            logits = logits.masked_fill(left_out, torch.finfo(logits.dtype).min)
        return logits.softmax(dim=2)
