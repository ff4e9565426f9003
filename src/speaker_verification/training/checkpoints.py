"""Checkpoints of a phase: a folder with its best epochs and their ranking.

ranking.json                best first: epoch, folder, error rate; an average of the best comes before them
epoch_07/config.json        the speaker model (SpeakerModel.from_pretrained)
epoch_07/model.safetensors
epoch_07/head.safetensors   weights of the head
epoch_07/run.json           speakers in class order, settings (of the head its kind, too), embedding size,
                            number and speeds of the classes of the head, metrics, ids of the tracked runs,
                            record of the run that trained
average/                    likewise, of the best epochs' average, where the phase makes one
phase.json                  fingerprint and learning curve of the finished phase (see resume.py)
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from speaker_verification.audio.speed import speed_class_offsets
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError, UserError
from speaker_verification.models.encoders.lora import load_merged_state
from speaker_verification.models.heads import Head, HeadSettings, build_head
from speaker_verification.models.settings import WEIGHTS_FILE
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.models.weight_files import load_strictly, read_json, read_safetensors
from speaker_verification.training.averaging import mean_state
from speaker_verification.training.kept_epochs import RANKING_FILE, RUN_FILE, RankedEpoch

HEAD_FILE = "head.safetensors"
HEAD_SHAPE = ("embedding_size", "num_classes")  # beside the weights, what a head is built from
CLASS_SPEEDS = "class_speeds"  # likewise; absent in checkpoints from before heads had them
AVERAGE_FOLDER = "average"


def save_checkpoint(folder: Path, model: SpeakerModel, head: Head, run: dict[str, Any]) -> None:
    """Write model, head and plain values to a folder atomically.

    All processes call this, which gathers a sharded head, and the first one writes.

    Args:
        folder: folder to write or replace.
        model: speaker model.
        head: margin head.
        run: plain values: at least `speaker_ids` (in class order) and `head` (its settings).
    """
    weights = {name: value.contiguous() for name, value in head.state_dict().items()}
    if not processes().is_first:
        return
    with atomic_write(folder) as part:
        model.save_pretrained(part)
        save_file(weights, part / HEAD_FILE)
        shape = {name: getattr(head, name) for name in (*HEAD_SHAPE, CLASS_SPEEDS)}
        (part / RUN_FILE).write_text(json.dumps({**run, **shape}, indent=2))


def load_head(folder: Path, device: str | torch.device) -> tuple[Head, HeadSettings, dict[str, Any]]:
    """The head of a checkpoint, its settings, and the plain values beside it.

    Raises:
        DataError: the folder holds no complete checkpoint, or the head's class cannot be imported.
    """
    try:
        run = _read_run(folder / RUN_FILE)
        weights = read_safetensors(folder / HEAD_FILE, device)
        if "kind" not in run["head"]:
            run |= _from_first_format(run["head"], weights, folder / HEAD_FILE)
        settings = HeadSettings.parse(run["head"], f"{folder / RUN_FILE}: head")
    except UserError as error:
        raise DataError(f"'{folder}' is no complete checkpoint ({HEAD_FILE}, {RUN_FILE}): {error}") from error
    for name in HEAD_SHAPE:
        if not isinstance(run.get(name), int):
            raise DataError(f"'{folder / RUN_FILE}' lacks '{name}', a whole number")
    head = build_head(settings, *(run[name] for name in HEAD_SHAPE)).to(device)
    load_strictly(head, weights, folder / HEAD_FILE)
    speeds = run.get(CLASS_SPEEDS) or run.get("phase", {}).get("speed_factors", [1.0])
    head.class_speeds = tuple(speed_class_offsets(speeds))
    return head, settings, run


def _from_first_format(settings: dict[str, Any], weights: dict[str, Tensor], origin: Path) -> dict[str, Any]:
    """Values of a checkpoint from before heads had kinds: all were AAM-softmax, with flat settings."""
    centres = weights.get("weight")
    if centres is None or centres.dim() != 3:
        raise DataError(f"'{origin}' holds no AAM-softmax head: it lacks 'weight' of three dimensions")
    renamed = {"fallback" if name == "continuation" else name: value for name, value in settings.items()}
    _, embedding_size, num_classes = centres.shape  # (K, E, C)
    head = {"kind": "aam_softmax", "aam_softmax": renamed}
    return {"head": head, "embedding_size": embedding_size, "num_classes": num_classes}


def _read_run(path: Path) -> dict[str, Any]:
    run = read_json(path)
    for name, kind in (("speaker_ids", list), ("head", dict)):
        if not isinstance(run.get(name), kind):
            raise DataError(f"'{path}' lacks '{name}' or holds another thing there")
    return run


class BestCheckpoints:
    """The best epochs of a running phase, kept in a folder, to which of several processes the first writes.

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
        self, epoch: int, eer: float, model: SpeakerModel, head: Head, run: dict[str, Any]
    ) -> None:
        """Save an epoch if it is among the best; of equal error rates the later one ranks first.

        Where few validation speakers make many ties, the later epoch has learnt more for the same rate.
        Evicted checkpoints stay until `prune` deletes them, since a saved state may still need them.
        """
        candidate = RankedEpoch(epoch, f"epoch_{epoch:02d}", eer)
        ranking = sorted(
            [*self.ranking, candidate],
            key=lambda ranked: (0.0 if self._newest_first else ranked.eer, -ranked.epoch),
        )
        kept = ranking[: self.keep]
        if candidate in kept:
            save_checkpoint(self.folder / candidate.folder, model, head, run)
        self._rank(kept)

    def prune(self) -> None:
        """Delete evicted checkpoints, once the saved state no longer needs them."""
        kept = {ranked.folder for ranked in self.ranking}
        if not processes().is_first:
            return
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)

    def load_average(self, model: SpeakerModel, head: Head, num_best: int) -> None:
        """Load the mean weights of the `num_best` best epochs, or of all there are, into model and head."""
        folders = [self.folder / ranked.folder for ranked in self.ranking[:num_best]]
        load_merged_state(model, mean_state([read_safetensors(folder / WEIGHTS_FILE) for folder in folders]))
        head.load_state_dict(mean_state([read_safetensors(folder / HEAD_FILE) for folder in folders]))

    def save_average(
        self, epoch: int, eer: float, model: SpeakerModel, head: Head, run: dict[str, Any]
    ) -> None:
        """Save an average of the best epochs; it ranks first whatever its error rate."""
        save_checkpoint(self.folder / AVERAGE_FOLDER, model, head, run)
        self._rank([RankedEpoch(epoch, AVERAGE_FOLDER, eer), *self.ranking])

    def _rank(self, ranking: list[RankedEpoch]) -> None:
        if processes().is_first:
            with atomic_write(self.folder / RANKING_FILE) as part:
                part.write_text(json.dumps([asdict(ranked) for ranked in ranking], indent=2))
        self.ranking = ranking
