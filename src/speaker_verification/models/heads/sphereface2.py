"""SphereFace2 classification head: one binary classification per speaker."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.heads.base import HeadOutput, Margins
from speaker_verification.models.heads.chunks import ClassSummary
from speaker_verification.models.heads.sharding import ShardableHead

SQUARED_SINE_FLOOR = 1e-10  # under 1 - cos², whose root has no finite gradient at zero


class SphereFace2Settings(Settings):
    """SphereFace2 as published for speaker verification; the margin itself belongs to a phase."""

    margin_type: Literal["A", "C"] = "C"
    """Margin type; A: added to the angle, C: subtracted from the cosine."""
    scale: float = Field(32.0, gt=0)
    """Scale of the stretched cosines."""
    positive_weight: float = Field(0.7, gt=0, lt=1)
    """Weight of the target's class against all others."""
    exponent: int = Field(3, ge=1)
    """Exponent of the stretching of cosines."""


class SphereFace2(ShardableHead):
    """SphereFace2: every class is a binary classification of its own, with one bias b for all of them.

    With g(z) = 2 ((z + 1) / 2)^t - 1, scale s, weight lambda of the positive pairs and margin m, the loss of
    an example is lambda log(1 + exp(-p)) + (1 - lambda) sum over other classes of log(1 + exp(n)), where

        type A:  p = s g(cos(theta + m)) + b    n = s g(cos(theta - m)) + b
        type C:  p = s (g(cos theta) - m) + b   n = s (g(cos theta) + m) + b

    Where theta + m would pass pi, type A takes cos(theta) - (1 + cos(pi - m)). Predictions are the largest
    cosines, the target's less m. Computed in float32 whatever the autocast.

    Source: Y. Wen et al., SphereFace2: Binary Classification is All You Need for Deep Face Recognition (ICLR
    2022), section 3; B. Han et al., Exploring Binary Classification Loss for Speaker Verification (ICASSP
    2023), equations 5 to 7.

    Args:
        embedding_size: E.
        num_classes: C.
        settings: margin type, scale s, weight lambda of the positive pairs and exponent t.
    """

    Settings = SphereFace2Settings
    class_dim = 0

    def __init__(self, embedding_size: int, num_classes: int, settings: SphereFace2Settings) -> None:
        super().__init__(embedding_size, num_classes)
        self.settings = settings
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor, margins: Margins) -> HeadOutput:
        """Classify embeddings under the margin of this step.

        Args:
            embeddings: (B, E).
            labels: classes, (B,).
            margins: margins of this step, without an inter-top-k penalty.

        Raises:
            ParameterError: the margins have an inter-top-k penalty.
        """
        self.check_top_k(margins.top_k)
        with torch.autocast(embeddings.device.type, enabled=False):
            precise = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
            values, predictions = self.summary(precise, labels, margins, self.bias)
        return HeadOutput(values[0].mean(), predictions)

    def summarise(
        self, weight: Tensor, labels: Tensor, margins: Margins, embeddings: Tensor, *parameters: Tensor
    ) -> ClassSummary:
        """Rows (2, B): the summed loss, and the largest cosine, the target's less the margin."""
        cosine = functional.linear(functional.normalize(embeddings), functional.normalize(weight))  # (B, n)
        is_target = torch.arange(len(weight), device=labels.device) == labels[:, None]
        positive, negative = self._logits(cosine, margins.target, *parameters)
        share = self.settings.positive_weight
        losses = torch.where(
            is_target,
            -share * functional.logsigmoid(positive),
            -(1 - share) * functional.logsigmoid(-negative),
        )
        largest, classes = torch.where(is_target, cosine - margins.target, cosine).detach().max(dim=1)
        return ClassSummary(torch.stack([losses.sum(dim=1), largest]), classes)

    def merge(self, parts: ClassSummary) -> ClassSummary:
        losses, largest = parts.values.unbind(dim=1)  # (P, B) each
        largest, places = largest.max(dim=0)
        return ClassSummary(
            torch.stack([losses.sum(dim=0), largest]), parts.classes.gather(0, places[None])[0]
        )

    def _logits(self, cosine: Tensor, margin: float, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, n) of every class as the target and as another class."""
        scale = self.settings.scale
        if self.settings.margin_type == "C":
            similarity = self._stretch(cosine)
            return scale * (similarity - margin) + bias, scale * (similarity + margin) + bias
        sine = (1 - cosine.square()).clamp(min=SQUARED_SINE_FLOOR).sqrt()
        along, across = cosine * math.cos(margin), sine * math.sin(margin)
        lowered = cosine - (1 + math.cos(math.pi - margin))
        farther = torch.where(cosine > math.cos(math.pi - margin), along - across, lowered)
        return scale * self._stretch(farther) + bias, scale * self._stretch(along + across) + bias

    def _stretch(self, cosine: Tensor) -> Tensor:
        """g(z), which spreads cosines over -1..1; any shape."""
        return 2 * ((cosine + 1) / 2).pow(self.settings.exponent) - 1
