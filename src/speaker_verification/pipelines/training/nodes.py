"""Nodes of a training phase."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.common.tables import require_files
from speaker_verification.config.phases import CHECKPOINT
from speaker_verification.hooks.tracking import begin, ids_of, log_epoch
from speaker_verification.models.settings import MarginHeadSettings, ModelSettings
from speaker_verification.training.phase import PhaseSettings

logger = logging.getLogger(__name__)


def fetch_encoder(workspace: Path, encoders_folder: Path, model: ModelSettings, seed: int) -> Path:
    """Save the pre-trained encoder, found on this machine, or a random one of the given architecture."""
    from speaker_verification.config.feasibility import locate_encoder
    from speaker_verification.models.frontend import save_encoder

    frontend = model.frontend
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
    rirs: pd.DataFrame,
    phase: PhaseSettings,
    model: ModelSettings,
    head: MarginHeadSettings,
    augmentation: AugmentationSettings,
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, Path]:
    """Train a phase from an encoder or from the phase before; give its learning curve and its best epochs."""
    from transformers import set_seed

    from speaker_verification.common.device import resolve_device
    from speaker_verification.data.examples import TrainingExamples
    from speaker_verification.training.loop import train
    from speaker_verification.training.regularisation import PretrainedDistance
    from speaker_verification.training.resume import Origin
    from speaker_verification.training.start import start_phase
    from speaker_verification.training.validation import TrialSet, validate

    augmenter = Augmenter(noise_clips, rirs, augmentation) if augmentation.probability else None
    tables = {"training_utterances": training_utterances, "validation_utterances": validation_utterances}
    augmentation_tables = {"noise_clips": noise_clips, "rirs": rirs}
    require_files(tables | (augmentation_tables if augmenter else {}))
    phase_seed = seed + phase.seed_offset
    examples = TrainingExamples(
        training_utterances, augmenter, phase.crop_seconds, phase.speed_factors, phase_seed
    )
    held_out = TrialSet.of(validation_trials, validation_utterances)
    monitored = TrialSet.of(trials[trials["trial_list"].isin(phase.monitor)], utterances)
    heard = held_out.joined(monitored)
    set_seed(phase_seed)
    speaker_model, margin_head = start_phase(
        start, phase, model, head, examples.speaker_ids, resolve_device(device)
    )
    parameters = {
        "phase": phase.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "head": head.model_dump(mode="json"),
        "augmentation": augmentation.model_dump(mode="json"),
        "seed": seed,
    }
    folder, name = workspace / CHECKPOINT, workspace.parent.name
    begun_from = os.path.relpath(start, workspace.parent.parent)  # true also after a move
    curve = train(
        phase,
        speaker_model,
        margin_head,
        examples,
        regularise=PretrainedDistance(speaker_model.frontend, encoder, phase.pretrained_distance),
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
                "rirs": rirs[["rir_id", "num_samples"]],
            },
        ),
        on_start=partial(begin, name),
    )
    return curve, folder


def draw_schedule(phase: PhaseSettings, learning_curve: pd.DataFrame) -> Figure:
    """Draw learning rates and margin over the epochs of a phase, as planned and as they were."""
    from speaker_verification.training.figures import schedule_figure

    return schedule_figure(phase, learning_curve)
