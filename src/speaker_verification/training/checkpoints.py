"""Checkpoints of a phase: a folder with its best epochs and their ranking.

ranking.json                best first: epoch, folder, error rate; an average of the best comes before them
epoch_07/config.json        the speaker model (SpeakerModel.from_pretrained)
epoch_07/model.safetensors
epoch_07/head.safetensors   the margin head
epoch_07/run.json           speakers in class order, settings, metrics, ids of the tracked runs
average/                    likewise, of the best epochs' average, where the phase makes one
phase.json                  fingerprint and learning curve of the finished phase (see resume.py)
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.settings import WEIGHTS_FILE, MarginHeadSettings
from speaker_verification.models.speaker_model import SpeakerModel, load_strictly
from speaker_verification.models.weight_files import read_json, read_safetensors
from speaker_verification.training.averaging import mean_state

RANKING_FILE = "ranking.json"
HEAD_FILE = "head.safetensors"
RUN_FILE = "run.json"
AVERAGE_FOLDER = "average"


@dataclass(frozen=True)
class RankedEpoch:
    """A kept epoch and the EER in % that ranks it."""

    epoch: int
    folder: str
    eer: float


def save_checkpoint(
    folder: Path, model: SpeakerModel, head: SubcentreMarginHead, run: dict[str, Any]
) -> None:
    """Write model, head and plain values to a folder atomically.

    Args:
        folder: folder to write or replace.
        model: speaker model.
        head: margin head.
        run: plain values: at least `speaker_ids` (in class order) and `head` (its settings).
    """
    with atomic_write(folder) as part:
        model.save_pretrained(part)
        save_file({k: v.contiguous() for k, v in head.state_dict().items()}, part / HEAD_FILE)
        (part / RUN_FILE).write_text(json.dumps(run, indent=2))


def load_head(folder: Path, device: str | torch.device) -> tuple[SubcentreMarginHead, dict[str, Any]]:
    """The margin head of a checkpoint, and the plain values beside it.

    Raises:
        DataError: the folder holds no complete checkpoint.
    """
    try:
        run = _read_run(folder / RUN_FILE)
        weights = read_safetensors(folder / HEAD_FILE, device)
        settings = MarginHeadSettings.parse(run["head"], f"{folder / RUN_FILE}: head")
    except UserError as error:
        raise DataError(f"'{folder}' is no complete checkpoint ({HEAD_FILE}, {RUN_FILE}): {error}") from error
    centres = weights.get("weight")
    if centres is None or centres.dim() != 3:
        raise DataError(f"'{folder / HEAD_FILE}' holds no margin head: it lacks 'weight' of three dimensions")
    head = SubcentreMarginHead(centres.shape[1], centres.shape[2], settings).to(device)
    load_strictly(head, weights, folder / HEAD_FILE)
    return head, run


def _read_run(path: Path) -> dict[str, Any]:
    run = read_json(path)
    for name, kind in (("speaker_ids", list), ("head", dict)):
        if not isinstance(run.get(name), kind):
            raise DataError(f"'{path}' lacks '{name}' or holds another thing there")
    return run


class BestCheckpoints:
    """The best epochs of a running phase, kept in a folder.

    Args:
        folder: an empty folder, or that of the state to load.
        keep: number of epochs to keep.
        newest_first: keep the last epochs, whatever their error rates.
    """

    def __init__(self, folder: Path, keep: int, newest_first: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        self._newest_first = newest_first
        self.ranking: list[RankedEpoch] = []

    def state_dict(self) -> dict[str, Any]:
        """The ranking, as plain values."""
        return {"ranking": [asdict(ranked) for ranked in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ranking whose epochs are still in the folder.

        Raises:
            DataError: an epoch is missing.
        """
        self.ranking = [RankedEpoch(**values) for values in state["ranking"]]
        gone = [ranked.folder for ranked in self.ranking if not (self.folder / ranked.folder).exists()]
        if gone:
            raise DataError(f"'{self.folder}' lacks {', '.join(gone)}, which training had kept there")
        self.prune()

    def save_if_best(
        self, epoch: int, eer: float, model: SpeakerModel, head: SubcentreMarginHead, run: dict[str, Any]
    ) -> None:
        """Save an epoch if it is among the best; of equal error rates the earlier one ranks first.

        Evicted checkpoints stay until `prune` deletes them, since a saved state may still need them.
        """
        candidate = RankedEpoch(epoch, f"epoch_{epoch:02d}", eer)
        ranking = sorted(
            [*self.ranking, candidate],
            key=lambda ranked: -ranked.epoch if self._newest_first else ranked.eer,
        )
        kept = ranking[: self.keep]
        if candidate in kept:
            save_checkpoint(self.folder / candidate.folder, model, head, run)
        self._rank(kept)

    def prune(self) -> None:
        """Delete evicted checkpoints, once the saved state no longer needs them."""
        kept = {ranked.folder for ranked in self.ranking}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)

    def load_average(self, model: SpeakerModel, head: SubcentreMarginHead, num_best: int) -> None:
        """Load the mean weights of the `num_best` best epochs, or of all there are, into model and head."""
        folders = [self.folder / ranked.folder for ranked in self.ranking[:num_best]]
        model.load_state_dict(mean_state([read_safetensors(folder / WEIGHTS_FILE) for folder in folders]))
        head.load_state_dict(mean_state([read_safetensors(folder / HEAD_FILE) for folder in folders]))

    def save_average(
        self, epoch: int, eer: float, model: SpeakerModel, head: SubcentreMarginHead, run: dict[str, Any]
    ) -> None:
        """Save an average of the best epochs; it ranks first whatever its error rate."""
        save_checkpoint(self.folder / AVERAGE_FOLDER, model, head, run)
        self._rank([RankedEpoch(epoch, AVERAGE_FOLDER, eer), *self.ranking])

    def _rank(self, ranking: list[RankedEpoch]) -> None:
        with atomic_write(self.folder / RANKING_FILE) as part:
            part.write_text(json.dumps([asdict(ranked) for ranked in ranking], indent=2))
        self.ranking = ranking


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
    if rank > len(folders):
        raise ParameterError(f"parameter 'choose_top' is {rank}: {phase_folder} kept {len(folders)} epochs")
    return phase_folder / folders[rank - 1]
