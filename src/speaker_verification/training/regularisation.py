"""Regularisation towards the pre-trained weights of the frontend."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.lora import merged_parameters
from speaker_verification.models.frontend import Frontend, load_encoder
from speaker_verification.models.settings import is_saved_model
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.phase import PretrainedDistanceSettings

DISTANCE_FLOOR = 1e-5


class PretrainedDistance:
    """Loss with a penalty on the distance of the frontend from its pre-trained weights.

    `normalised`: loss / loss* + weight x distance / (distance* + 1e-5), where the distance is the sum over
    the frontend's tensors of their Euclidean distances and a star takes a value without its gradient, that of
    the loss over all processes. The value is constant; the gradients are what counts. `l2_sp`: loss +
    weight x sum of squared differences. `none` leaves the loss as it is.

    Source: J. Peng et al., SLT 2022, section 3.3 (normalised, in its public code); X. Li et al., Explicit
    Inductive Bias for Transfer Learning, ICML 2018, equation 2 (L2-SP).

    Args:
        frontend: frontend in training.
        encoder: hub name or folder of the pre-trained encoder, or folder of a saved model with it.
        settings: kind and weight of the penalty.

    Raises:
        DataError: the frontend is of another architecture than the pre-trained encoder.
    """

    def __init__(self, frontend: Frontend, encoder: str | Path, settings: PretrainedDistanceSettings) -> None:
        self._settings = settings
        self._encoder = frontend.encoder
        self._pretrained: dict[str, Tensor] = {}
        if settings.kind == "none":
            return
        pretrained = dict(_pretrained(encoder, frontend).named_parameters())
        for name, parameter in merged_parameters(frontend.encoder).items():
            reference = pretrained.get(name)
            if reference is None or reference.shape != parameter.shape:
                raise DataError(
                    f"'pretrained_distance' needs the encoder that training began with: '{encoder}' "
                    f"has no {name} of shape {tuple(parameter.shape)}"
                )
            self._pretrained[name] = reference.detach().to(parameter)

    def __call__(self, loss: Tensor) -> Tensor:
        """Loss to minimise, for a mean loss of the head."""
        if self._settings.kind == "none":
            return loss
        own = merged_parameters(self._encoder)
        differences = [own[name] - reference for name, reference in self._pretrained.items()]
        if self._settings.kind == "l2_sp":
            return loss + self._settings.weight * sum(d.square().sum() for d in differences)
        distance = torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()
        pull = distance / (distance.detach() + DISTANCE_FLOOR)
        return loss / processes().mean(loss.detach().clone()) + self._settings.weight * pull


def _pretrained(folder: str | Path, frontend: Frontend) -> PreTrainedModel:
    """Encoder of a hub name, of a folder in Hugging Face format or of a saved model's folder."""
    if is_saved_model(Path(folder)):
        return SpeakerModel.from_pretrained(folder).frontend.encoder
    return load_encoder(folder, adapter=type(frontend.adapter))
