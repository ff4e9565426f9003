"""Nodes of a training phase."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.common.tables import require_files
from speaker_verification.config.phases import CHECKPOINT
from speaker_verification.hooks.tracking import begin, ids_of, log_epoch

logger = logging.getLogger(__name__)


def fetch_encoder(workspace: Path, encoders_folder: Path, model: dict[str, Any], seed: int) -> Path:
    """Save the pre-trained encoder, found on this machine, or a random one of the given architecture."""
    from speaker_verification.config.feasibility import locate_encoder
    from speaker_verification.models.frontend import save_encoder
    from speaker_verification.models.settings import ModelSettings

    frontend = ModelSettings.parse(model, "model").frontend
    if frontend.checkpoint is not None:
        found = locate_encoder(frontend.checkpoint, encoders_folder)
        frontend = frontend.model_copy(update={"checkpoint": str(found)})
    folder = workspace / "encoder"
    save_encoder(frontend, folder, seed)
    return folder


def train_phase(
    start: Path,
    encoder: Path,
    workspace: Path,
    training_utterances: pd.DataFrame,
    validation_utterances: pd.DataFrame,
    validation_trials: pd.DataFrame,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    noise_clips: pd.DataFrame,
    room_responses: pd.DataFrame,
    phase: dict[str, Any],
    model: dict[str, Any],
    head: dict[str, Any],
    augmentation: dict[str, Any],
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, Path]:
    """Train a phase from an encoder or from the phase before; give its learning curve and its best epochs."""
    from transformers import set_seed

    from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
    from speaker_verification.common.device import resolve_device
    from speaker_verification.data.examples import TrainingExamples
    from speaker_verification.models.settings import MarginHeadSettings, ModelSettings
    from speaker_verification.training.loop import train
    from speaker_verification.training.phase import PhaseSettings
    from speaker_verification.training.regularisation import PretrainedDistance
    from speaker_verification.training.resume import Origin
    from speaker_verification.training.start import start_phase
    from speaker_verification.training.validation import TrialSet, validate

    settings = PhaseSettings.parse(phase, "phase")
    model_settings = ModelSettings.parse(model, "model")
    head_settings = MarginHeadSettings.parse(head, "head")
    augmentation_settings = AugmentationSettings.parse(augmentation, "augmentation")
    augmenter = (
        Augmenter(noise_clips, room_responses, augmentation_settings)
        if augmentation_settings.probability
        else None
    )
    tables = {"training_utterances": training_utterances, "validation_utterances": validation_utterances}
    augmentation_tables = {"noise_clips": noise_clips, "room_responses": room_responses}
    require_files(tables | (augmentation_tables if augmenter else {}))
    phase_seed = seed + settings.seed_offset
    examples = TrainingExamples(
        training_utterances, augmenter, settings.crop_seconds, settings.speed_factors, phase_seed
    )
    held_out = TrialSet.of(validation_trials, validation_utterances)
    monitored = TrialSet.of(trials[trials["trial_list"].isin(settings.monitor)], utterances)
    heard = held_out.joined(monitored)
    set_seed(phase_seed)
    speaker_model, margin_head = start_phase(
        start,
        settings,
        model_settings,
        head_settings,
        examples.speaker_ids,
        resolve_device(device),
    )
    parameters = {
        "phase": settings.model_dump(mode="json"),
        "model": model_settings.model_dump(mode="json"),
        "head": head_settings.model_dump(mode="json"),
        "augmentation": augmentation_settings.model_dump(mode="json"),
        "seed": seed,
    }
    folder, name = workspace / CHECKPOINT, workspace.parent.name
    begun_from = os.path.relpath(start, workspace.parent.parent)  # true also after a move
    curve = train(
        settings,
        speaker_model,
        margin_head,
        examples,
        regularise=PretrainedDistance(speaker_model.frontend, encoder, settings.pretrained_distance),
        validate=lambda current: validate(current, held_out, monitored),
        folder=folder,
        run={
            "speaker_ids": examples.speaker_ids,
            "start": begun_from,
            **parameters,
            "tracking": ids_of(name),
        },
        seed=phase_seed,
        on_epoch=partial(log_epoch, name),
        origin=Origin(
            phase=name,
            parameters=parameters,
            start=begun_from,
            tables={
                "training_utterances": training_utterances[["utterance_id", "num_samples"]],
                "validation_utterances": heard.utterances[["utterance_id", "num_samples"]],
                "validation_trials": heard.trials,
                "noise_clips": noise_clips[["clip_id", "num_samples"]],
                "room_responses": room_responses[["response_id", "num_samples"]],
            },
        ),
        on_start=partial(begin, name),
    )
    return curve, folder


def draw_schedule(phase: dict[str, Any], learning_curve: pd.DataFrame) -> Figure:
    """Draw learning rates and margin over the epochs of a phase, as planned and as they were."""
    from speaker_verification.training.figures import schedule_figure
    from speaker_verification.training.phase import PhaseSettings

    return schedule_figure(PhaseSettings.parse(phase, "phase"), learning_curve)
