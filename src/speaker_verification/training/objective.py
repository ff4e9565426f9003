"""Objective of a phase: the loss that its steps minimise, and the model that an epoch hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from speaker_verification.data.loading import Batch
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.metrics import Metrics


class Loss(NamedTuple):
    """Mean loss over a batch, a scalar, and predicted classes, (B,), or None."""

    value: Tensor
    predictions: Tensor | None


class Objective:
    """Margin loss of the head, whose epochs hand on the trained model itself.

    A subclass has another loss, parameters of its own beside the classifier's, or a model that changes its
    shape. All processes call every method together.
    """

    has_margin: bool = True
    """Whether the margins of the phase's schedule apply."""

    def begin(
        self, classifier: SpeakerClassifier, steps_per_epoch: int, reshaped: Callable[[], None]
    ) -> None:
        """Called once, before the first step and before a saved state is loaded.

        Args:
            classifier: model and head in training.
            steps_per_epoch: optimiser steps in an epoch.
            reshaped: function to call after parameters of the model were replaced by others.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Called before the steps of an epoch, also of one that is resumed; the first epoch is 1."""

    def begin_pass(self, step: int, index: int) -> None:
        """Called before a forward pass, the index-th of an optimiser step; both are counted from 0."""

    def loss(self, classifier: SpeakerClassifier, batch: Batch, margins: Margins, autocast: bool) -> Loss:
        """Loss of a batch.

        Args:
            classifier: model and head.
            batch: waveforms (B, samples) and labels (B,).
            margins: margins of the step.
            autocast: compute embeddings in bfloat16.
        """
        return Loss(*classifier(batch.waveforms, batch.labels, margins, autocast=autocast))

    def update(self) -> None:
        """Update parameters beside the classifier's, after a backward pass whose loss is finite."""

    def metrics(self) -> Metrics:
        """Further metrics of the epoch that has ended, and of the model that it hands on."""
        return {}

    def handed_on(self, model: SpeakerModel) -> SpeakerModel:
        """Model to validate and keep after an epoch, made from the model in training."""
        return model

    def ranks(self, metrics: Mapping[str, float]) -> bool:
        """Whether an epoch with these metrics may be kept as one of the best."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training beside the classifier; empty where nothing does."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, and the shape that the model had then."""
