"""Start of a phase: a pre-trained encoder, or the best epoch of the phase before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.heads import Head, HeadSettings, build_head
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import load_head
from speaker_verification.training.kept_epochs import RANKING_FILE, best_checkpoint
from speaker_verification.training.phase import PhaseSettings


def start_phase(
    folder: Path,
    phase: PhaseSettings,
    model_settings: ModelSettings,
    head_settings: HeadSettings,
    speaker_ids: Sequence[str],
    device: torch.device,
) -> tuple[SpeakerModel, Head]:
    """Model and margin head that a phase starts from.

    After an encoder both are fresh (drawn from torch's global generator), with a class for every speaker at
    every speed. After a phase both are those of its best epoch, classes included. A sharded head is made
    whole, so that its weights are those of one process, of which each then keeps its classes'.

    Args:
        folder: an encoder in Hugging Face format, or of the phase before.
        phase: settings of the phase to start.
        model_settings: used after an encoder; after a phase the model has its own.
        head_settings: likewise, but for how it is computed.
        speaker_ids: training speakers in class order.
        device: to train on.

    Raises:
        DataError: the phase before was trained on other speakers, or the folder cannot be read.
        ParameterError: this phase needs more classes than the phase before made, or asks for another model.
    """
    if not (folder / RANKING_FILE).exists():
        model = SpeakerModel.from_encoder(folder, model_settings)
        num_classes = len(speaker_ids) * phase.num_speed_classes
        head = build_head(head_settings, model.embedding_size, num_classes)
        head.distribute(head_settings.sharded, head_settings.classes_per_chunk)
        return model.to(device), head.to(device)
    checkpoint = best_checkpoint(folder, phase.choose_top)
    head, trained_head, run = load_head(checkpoint, "cpu")
    if list(run["speaker_ids"]) != list(speaker_ids):
        raise DataError(
            f"{checkpoint} was trained on {len(run['speaker_ids'])} speakers that are not the "
            f"{len(speaker_ids)} of today's training utterances: run the phases again from 'pretrain'"
        )
    phase.refuse_more_classes(head.num_classes // len(speaker_ids))
    model = SpeakerModel.from_pretrained(checkpoint, device)
    for name, asked, trained in (
        ("model.layer_aggregation", model_settings.layer_aggregation, model.settings.layer_aggregation),
        ("model.speaker_network", model_settings.speaker_network, model.settings.speaker_network),
        ("head", head_settings, trained_head),
    ):
        if asked.in_use != trained.in_use:
            raise ParameterError(
                f"parameter '{name}' is {asked.in_use}, but {checkpoint} is of {trained.in_use}: run the "
                "phases of this recipe from 'pretrain', or start from a checkpoint of its own"
            )
    head.distribute(head_settings.sharded, head_settings.classes_per_chunk)
    return model, head.to(device)
