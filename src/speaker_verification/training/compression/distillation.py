"""Distillation: hidden states of an encoder that stay close to those of its teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from speaker_verification.data.loading import Batch
from speaker_verification.models.frontend import Frontend
from speaker_verification.models.heads.base import Margins
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.objective import Loss, Objective


class Distillation(Objective):
    """Distance of the L+1 hidden states from those of a teacher; layer aggregation, network and head rest.

    With the states s and t (B, T, D) of student and teacher, loss = mean |s - t| - mean cos(s, t): the first
    mean is over all values of all states, the second over all their frames.

    Args:
        teacher: frontend of the teacher, of as many states of the same width; frozen here.

    Source: Z. Li, M. Cheng, M. Li, Enhancing Speaker Verification with w2v-BERT 2.0 and Knowledge
    Distillation guided Structured Pruning, arXiv 2510.04213, with the weights of its public code.
    """

    has_margin = False

    def __init__(self, teacher: Frontend) -> None:
        self._teacher = teacher.requires_grad_(False).eval()

    def begin(
        self, classifier: SpeakerClassifier, steps_per_epoch: int, reshaped: Callable[[], None]
    ) -> None:
        for part in (classifier.head, classifier.model.layer_aggregation, classifier.model.speaker_network):
            part.requires_grad_(False)

    def loss(self, classifier: SpeakerClassifier, batch: Batch, margins: Margins, autocast: bool) -> Loss:
        with torch.autocast(batch.waveforms.device.type, torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                wanted = self._teacher(batch.waveforms)
            states = classifier.model.frontend(batch.waveforms)
        distances = [_distance(own, other) for own, other in zip(states, wanted, strict=True)]
        return Loss(torch.stack(distances).mean(), None)


def _distance(state: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two states (B, T, D), less their mean cosine similarity."""
    if state.dtype != torch.float64:
        state, teacher = state.float(), teacher.float()
    return functional.l1_loss(state, teacher) - functional.cosine_similarity(state, teacher, dim=-1).mean()
