"""Nodes of a training phase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.config.phases import CHECKPOINT, ENCODER
from speaker_verification.hooks.run_log import later_phases, times_of
from speaker_verification.hooks.run_record import training_record
from speaker_verification.hooks.tracking import PhaseTracker
from speaker_verification.models.settings import ModelSettings
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.phase import PhaseSettings
from speaker_verification.training.run import PhaseJob, PhaseTables, run_phase


class TrainedPhase(NamedTuple):
    """Outputs of a phase in the order in which they are saved: until its checkpoint is, it can resume.

    Attributes:
        learning_curve: LEARNING_CURVE table.
        checkpoint: folder of the best epochs.
    """

    learning_curve: pd.DataFrame
    checkpoint: Path


def fetch_encoder(
    workspace: Path, encoders_folder: Path, model: ModelSettings, phase: PhaseSettings, seed: int
) -> Path:
    """Save the encoder: a pre-trained one of this machine, a random one, or that of the phase's start."""
    from speaker_verification.config.feasibility import locate_encoder
    from speaker_verification.models.frontend import save_encoder

    frontend = model.frontend
    if phase.start is not None:
        from speaker_verification.models.speaker_model import SpeakerModel
        from speaker_verification.training.kept_epochs import saved_model

        started = SpeakerModel.from_pretrained(saved_model(Path(phase.start)))
        started.frontend.encoder.save_pretrained(workspace / ENCODER)
        return workspace / ENCODER
    if frontend.checkpoint is not None:
        found = locate_encoder(frontend.checkpoint, encoders_folder)
        frontend = frontend.model_copy(update={"checkpoint": str(found)})
    save_encoder(frontend, workspace / ENCODER, seed)
    return workspace / ENCODER


def train_phase(
    job: PhaseJob,
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
) -> TrainedPhase:
    """Train a phase from an encoder or from the phase before."""
    tables = PhaseTables(
        training_utterances,
        validation_utterances,
        validation_trials,
        utterances,
        trials,
        noise_clips,
        rirs,
    )
    folder = workspace / CHECKPOINT
    start_name = os.path.relpath(start, workspace.parent.parent)  # true also after a move
    curve = run_phase(
        job,
        tables,
        start,
        encoder,
        folder,
        start_name,
        PhaseTracker(job.name),
        later_phases(job.name),
        times_of(job.name),
        training_record(),
    )
    return TrainedPhase(curve, folder)


def draw_compression(compress: CompressSettings, learning_curve: pd.DataFrame) -> Figure:
    """Draw sparsity and validation error rate over the epochs of a compression."""
    from speaker_verification.reporting.figures.training import compression_figure

    return compression_figure(compress, learning_curve)


def draw_schedule(phase: PhaseSettings, learning_curve: pd.DataFrame) -> Figure:
    """Draw learning rates and margin over the epochs of a phase, as planned and as they were."""
    from speaker_verification.reporting.figures.training import schedule_figure

    return schedule_figure(phase, learning_curve)
