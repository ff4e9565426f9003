"""AAM-softmax classification head with sub-centres and inter-top-k penalty."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from speaker_verification.common.settings_base import Settings
from speaker_verification.models.heads.base import Head, HeadOutput, Margins
from speaker_verification.models.initialisation import xavier_initialise

# Rounding carries cosines past one: without a floor under 1 - cos² the root or its gradient is NaN.
SQUARED_SINE_FLOOR = 1e-10


class AamSoftmaxSettings(Settings):
    """Sub-centre AAM-softmax; the margins themselves belong to a phase."""

    num_subcentres: int = Field(3, ge=1)
    """Sub-centres of a class."""
    scale: float = Field(30.0, gt=0)
    """Scale of the cosines."""
    initialisation: Literal["xavier_uniform", "xavier_normal"] = "xavier_uniform"
    """Initial weights of the centres."""
    fallback: Literal["arcface", "wespeaker"] = "arcface"
    """Target logit where angle and margin would pass pi."""


class SubcentreMarginHead(Head):
    """AAM-softmax with K sub-centres per class and the inter-top-k penalty.

    A class's cosine is the largest over its centres. The target's logit is cos(theta + m); where theta + m
    would pass pi it is cos(theta) - m sin(pi - m) (fallback `arcface`) or cos(theta) - (1 + cos(pi - m))
    (`wespeaker`). The k largest non-target cosines become cos(theta - m'). Predictions carry the target's
    margin but not the penalty. Computed in float32 whatever the autocast.

    Source: J. Deng et al., ArcFace (CVPR 2019) and Sub-center ArcFace (ECCV 2020); M. Zhao et al.,
    Multi-Query Multi-Head Attention Pooling and Inter-TopK Penalty (ICASSP 2022).

    Args:
        embedding_size: E.
        num_classes: C.
        settings: number of sub-centres K, scale, initialisation and fallback.
    """

    Settings = AamSoftmaxSettings
    has_top_k_penalty = True

    def __init__(self, embedding_size: int, num_classes: int, settings: AamSoftmaxSettings) -> None:
        super().__init__(embedding_size, num_classes)
        self.scale = settings.scale
        self.fallback = settings.fallback
        self.weight = nn.Parameter(torch.empty(settings.num_subcentres, embedding_size, num_classes))
        if settings.initialisation == "xavier_uniform":
            xavier_initialise(self)
        else:
            for centres in self.weight:  # (E, C): fans are those of a linear layer
                nn.init.xavier_normal_(centres)

    def forward(self, embeddings: Tensor, labels: Tensor, margins: Margins) -> HeadOutput:
        """Classify embeddings under the margins of this step.

        Args:
            embeddings: (B, E).
            labels: classes, (B,).
            margins: margins of this step.

        Raises:
            ParameterError: top_k reaches past the non-target classes.
        """
        self.check_top_k(margins.top_k, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            precise = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
            cosine = self._class_cosines(precise)  # (B, C)
            sine = (1 - cosine.square()).clamp(min=SQUARED_SINE_FLOOR).sqrt()
            is_target = functional.one_hot(labels, self.num_classes).bool()
            with_margin = torch.where(is_target, self._add_margin(cosine, sine, margins.target), cosine)
            logits = with_margin
            if margins.top_k:
                hardest = cosine.masked_fill(is_target, -math.inf).topk(margins.top_k, dim=1).indices
                nearer = cosine * math.cos(margins.top_k_penalty) + sine * math.sin(margins.top_k_penalty)
                logits = with_margin.scatter(1, hardest, nearer.gather(1, hardest))
            loss = functional.cross_entropy(self.scale * logits, labels)
        return HeadOutput(loss, with_margin.argmax(dim=1))

    def _class_cosines(self, embeddings: Tensor) -> Tensor:
        """Cosine to the nearest centre of every class, (B, C)."""
        # Dividing the products, not the centres, leaves out copies of them: they are most of the head.
        lengths = torch.linalg.vector_norm(self.weight, dim=1, keepdim=True).clamp_min(1e-12)  # (K, 1, C)
        directions = functional.normalize(embeddings, dim=1).expand(len(self.weight), -1, -1)
        products = torch.bmm(directions, self.weight)  # (K, B, C)
        return (products / lengths).amax(dim=0)

    def _add_margin(self, cosine: Tensor, sine: Tensor, margin: float) -> Tensor:
        """cos(theta + margin), continued where the angle passes pi; any shape."""
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        if self.fallback == "arcface":
            lowered = cosine - margin * math.sin(math.pi - margin)
        else:
            lowered = cosine - (1 + math.cos(math.pi - margin))
        return torch.where(cosine > math.cos(math.pi - margin), shifted, lowered)
