"""Epochs that a phase keeps: their ranking, and the choice of one, without torch and without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speaker_verification.common.errors import DataError
from speaker_verification.training.phase import refuse_rank

if TYPE_CHECKING:
    from speaker_verification.scoring.settings import EmbedSettings

RANKING_FILE = "ranking.json"
RUN_FILE = "run.json"
TRAINED_BY = "trained_by"  # record of a run in it
VERIFIER_MODEL = "model"  # folder in that of a verifier


@dataclass(frozen=True)
class RankedEpoch:
    """A kept epoch and the EER in % that ranks it."""

    epoch: int
    folder: str
    eer: float


def best_checkpoint(phase_folder: Path, rank: int = 1) -> Path:
    """Folder of the rank-th best epoch of a phase.

    Args:
        phase_folder: folder that a phase saved.
        rank: 1 is the best.

    Raises:
        DataError: the folder holds no ranking.
        ParameterError: fewer epochs were kept.
    """
    try:
        ranking = json.loads((phase_folder / RANKING_FILE).read_text())
        folders = [str(ranked["folder"]) for ranked in ranking]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"'{phase_folder}' holds no checkpoints of a phase: {error}") from error
    refuse_rank(rank, len(folders), phase_folder)
    return phase_folder / folders[rank - 1]


def evaluated_model(settings: EmbedSettings, trained_folder: Callable[[], Path]) -> Path:
    """Folder of the model to evaluate: `model` of the settings, or else the `choose_top`-th best of a phase.

    `model` may also be what `saved_model` takes.

    Args:
        settings: of embedding extraction.
        trained_folder: gives the folder that the last phase saved; called only where no model is set.

    Raises:
        UserError: as `best_checkpoint`.
    """
    if settings.model is not None:
        return saved_model(Path(settings.model))
    return best_checkpoint(trained_folder(), settings.choose_top)


def saved_model(folder: Path) -> Path:
    """Folder of the model in a folder: itself, the best epoch of a phase, or the model of a verifier.

    Of the versions of a phase's checkpoint it is the best epoch of the newest.

    Raises:
        DataError: the ranking of the phase cannot be read.
    """
    versions = sorted(folder.glob(f"*/{folder.name}/{RANKING_FILE}"))
    if versions:
        folder = versions[-1].parent
    if (folder / RANKING_FILE).is_file():
        return best_checkpoint(folder)
    return folder / VERIFIER_MODEL if (folder / VERIFIER_MODEL).is_dir() else folder
