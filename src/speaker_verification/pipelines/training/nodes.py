"""Nodes of a training phase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from plotly.graph_objects import Figure

from speaker_verification.config.phases import CHECKPOINT
from speaker_verification.hooks.run_log import later_phases, times_of
from speaker_verification.hooks.run_record import training_record
from speaker_verification.hooks.tracking import PhaseTracker
from speaker_verification.models.settings import ModelSettings
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


def draw_schedule(phase: PhaseSettings, learning_curve: pd.DataFrame) -> Figure:
    """Draw learning rates and margin over the epochs of a phase, as planned and as they were."""
    from speaker_verification.reporting.figures.training import schedule_figure

    return schedule_figure(phase, learning_curve)
