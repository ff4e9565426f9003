"""AAM-softmax classification head with sub-centres and inter-top-k penalty."""

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
from speaker_verification.models.initialisation import xavier_initialise

# Rounding carries cosines past one: without a floor under 1 - cos² the root or its gradient is NaN.
SQUARED_SINE_FLOOR = 1e-10
ABSENT = -1e30  # cosine of a class that is not there: its exponential is zero, with a finite gradient


class AamSoftmaxSettings(Settings):
    """Sub-centre AAM-softmax; the margins themselves belong to a phase."""

    num_subcentres: int = Field(3, ge=1)
    """Sub-centres of a class."""
    scale: float = Field(30.0, gt=0)
    """Scale of the cosines."""
    initialisation: Literal["xavier_uniform", "xavier_normal", "unit"] = "xavier_uniform"
    """Initial weights of the centres; unit: uniform, every dimension of norm 1 over the classes."""
    fallback: Literal["arcface", "wespeaker"] = "arcface"
    """Target logit where angle and margin would pass pi."""


class SubcentreMarginHead(ShardableHead):
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
    class_dim = 2

    def __init__(self, embedding_size: int, num_classes: int, settings: AamSoftmaxSettings) -> None:
        super().__init__(embedding_size, num_classes)
        self.scale = settings.scale
        self.fallback = settings.fallback
        self.weight = nn.Parameter(torch.empty(settings.num_subcentres, embedding_size, num_classes))
        if settings.initialisation == "xavier_uniform":
            xavier_initialise(self)
        elif settings.initialisation == "unit":
            nn.init.uniform_(self.weight, -1.0, 1.0)
            self.weight.data = functional.normalize(self.weight.data, dim=2)  # (K, E, C)
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
            loss_of = self._loss_at_once if self.is_in_one_part else self._loss_in_parts
            return loss_of(precise, labels, margins)

    def _loss_at_once(self, embeddings: Tensor, labels: Tensor, margins: Margins) -> HeadOutput:
        cosine = self._class_cosines(embeddings, self.weight)  # (B, C)
        sine = _sine(cosine)
        is_target = functional.one_hot(labels, self.num_classes).bool()
        with_margin = torch.where(is_target, self._add_margin(cosine, sine, margins.target), cosine)
        logits = with_margin
        if margins.top_k:
            hardest = cosine.masked_fill(is_target, -math.inf).topk(margins.top_k, dim=1).indices
            nearer = _approach(cosine, sine, margins.top_k_penalty)
            logits = with_margin.scatter(1, hardest, nearer.gather(1, hardest))
        loss = functional.cross_entropy(self.scale * logits, labels)
        return HeadOutput(loss, with_margin.argmax(dim=1))

    def _loss_in_parts(self, embeddings: Tensor, labels: Tensor, margins: Margins) -> HeadOutput:
        values, nearest = self.summary(embeddings, labels, margins)
        rest, target, hardest = values[0], values[1], values[2:]
        with_margin = self._add_margin(target, _sine(target), margins.target)
        penalised = hardest[: margins.top_k]
        nearer = _approach(penalised, _sine(penalised), margins.top_k_penalty)
        logits = self.scale * torch.cat([with_margin[None], nearer, hardest[margins.top_k :]])
        losses = torch.cat([rest[None], logits]).logsumexp(dim=0) - logits[0]
        return HeadOutput(losses.mean(), torch.where(with_margin >= hardest[0], labels, nearest))

    def summarise(
        self, weight: Tensor, labels: Tensor, margins: Margins, embeddings: Tensor, *parameters: Tensor
    ) -> ClassSummary:
        """The target's cosine, the k largest others (one at least), and the logsumexp of the rest's logits.

        Rows (2 + k, B): the rest, the target, the others from the largest down, whose class is named.
        """
        cosine = self._class_cosines(embeddings, weight)  # (B, n)
        num_kept, num_here = max(margins.top_k, 1), cosine.shape[1]
        is_target = torch.arange(num_here, device=labels.device) == labels[:, None]
        target = cosine.masked_fill(~is_target, ABSENT).amax(dim=1)
        others = cosine.masked_fill(is_target, ABSENT)
        hardest, classes = others.topk(min(num_kept, num_here), dim=1)
        rest = (self.scale * others.scatter(1, classes, ABSENT)).logsumexp(dim=1)
        hardest = functional.pad(hardest, [0, num_kept - hardest.shape[1]], value=ABSENT)
        return ClassSummary(torch.cat([rest[None], target[None], hardest.T]), classes[:, 0])

    def merge(self, parts: ClassSummary) -> ClassSummary:
        rests, targets, hardest = parts.values[:, 0], parts.values[:, 1], parts.values[:, 2:]
        num_kept, others = hardest.shape[1], hardest.flatten(0, 1)  # (P k, B)
        hardest, places = others.topk(num_kept, dim=0)
        passed = self.scale * others.scatter(0, places, ABSENT)
        rest = torch.cat([rests, passed]).logsumexp(dim=0)
        values = torch.cat([rest[None], targets.amax(dim=0)[None], hardest])
        return ClassSummary(values, parts.classes.gather(0, places[:1] // num_kept)[0])

    def _class_cosines(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        """Cosine to the nearest centre of every class, (B, C), for centres (K, E, C)."""
        # Dividing the products, not the centres, leaves out copies of them: they are most of the head.
        lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min(1e-12)  # (K, 1, C)
        directions = functional.normalize(embeddings, dim=1).expand(len(weight), -1, -1)
        products = torch.bmm(directions, weight)  # (K, B, C)
        return (products / lengths).amax(dim=0)

    def _add_margin(self, cosine: Tensor, sine: Tensor, margin: float) -> Tensor:
        """cos(theta + margin), continued where the angle passes pi; any shape."""
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        if self.fallback == "arcface":
            lowered = cosine - margin * math.sin(math.pi - margin)
        else:
            lowered = cosine - (1 + math.cos(math.pi - margin))
        return torch.where(cosine > math.cos(math.pi - margin), shifted, lowered)


def _sine(cosine: Tensor) -> Tensor:
    """Sine of the angle of a cosine; any shape."""
    return (1 - cosine.square()).clamp(min=SQUARED_SINE_FLOOR).sqrt()


def _approach(cosine: Tensor, sine: Tensor, penalty: float) -> Tensor:
    """cos(theta - penalty); any shape."""
    return cosine * math.cos(penalty) + sine * math.sin(penalty)
