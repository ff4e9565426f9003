"""Resumption of interrupted phases, bit by bit as if they had not been interrupted.

Beside the folder of the best epochs, `FOLDER.resume` has the whole state of a running phase: weights,
optimiser, averages, metrics of the epoch, ranking and learning curve; random states follow from the step
(see seeding.py). It is replaced atomically, so that neither a kill nor a full disk costs the state before.
At the end of the phase, `FOLDER/phase.json` records it as finished and the file is deleted: all that is left
is in the folder, ready to be moved to where it is kept. A phase is interrupted while its folder is there with
one of the two files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pandas as pd
import torch

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.speaker_model import weights_digest
from speaker_verification.models.weight_files import read_json, read_torch_file
from speaker_verification.training.failures import report_failed_writes

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

logger = logging.getLogger(__name__)

FORMAT = 3  # of both files; 1 had no number and other names of parameters, 2 also random states
FINISHED_FILE = "phase.json"
# Parameters that may change while a phase is interrupted: its result does not depend on them, up to the order
# of additions.
HARMLESS = {
    "augmentation.cache_megabytes",
    "head.classes_per_chunk",
    "head.sharded",
    "phase.allow_changed_augmentation",
    "phase.cache_megabytes",
    "phase.keep_checkpoints",
    "phase.num_workers",
    "phase.resume",
    "phase.save_every_steps",
}
# Tables that only later examples are drawn from: with the user's leave a phase resumes with others.
AUGMENTATION_TABLES = ("noise_clips", "rirs")
NUM_NAMED = 3  # changed rows named in a message


@dataclass(frozen=True)
class RunFingerprint:
    """Inputs that determine the result of a phase: stored in its checkpoints, compared before it resumes.

    Attributes:
        phase: name of the phase, for messages.
        settings: plain values by group, nested; those of the phase itself under `phase`.
        start: folder of the first weights, for messages.
        speaker_ids: training speakers in class order.
        tables: input tables by name, restricted to columns that affect training.
    """

    phase: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    speaker_ids: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values to store in a checkpoint, without the tables."""
        return {"speaker_ids": list(self.speaker_ids), "start": self.start, **self.settings}


@dataclass
class Progress:
    """Progress of a phase.

    Attributes:
        step: number of optimiser steps taken.
        curve: rows of the learning curve.
        finished: whether nothing is left to train.
    """

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


def resume_path(folder: Path) -> Path:
    """State file of the running phase whose best epochs are in a folder."""
    return folder.with_name(f"{folder.name}.resume")


def is_interrupted(folder: Path) -> bool:
    """Whether a phase has left its folder before its end, or before the folder was moved where it is kept."""
    return (folder / FINISHED_FILE).exists() or (folder.exists() and resume_path(folder).exists())


class ResumePoint:
    """The saved state of a running phase.

    Of several processes the first writes it and all read it; nothing in it depends on their number.

    Args:
        folder: folder of the best epochs.
        fingerprint: inputs of the phase.
        parts: all that changes in training, by name, in its state at the start; `modules` has the weights.
    """

    def __init__(self, folder: Path, fingerprint: RunFingerprint, parts: Mapping[str, Stateful]) -> None:
        self.path = resume_path(folder)
        self._folder = folder
        self._parts = parts
        self._phase = fingerprint.phase
        self._fingerprint: dict[str, Any] = {
            "settings": dict(_flatten(json.loads(json.dumps(fingerprint.settings)))),
            "tables": {name: _rows(table) for name, table in fingerprint.tables.items()},
            "start": fingerprint.start,
            "weights": weights_digest(parts["modules"].state_dict()),
        }
        self._saved_step: int | None = None

    def begin(self, resume: bool, allow_changed_augmentation: bool = False) -> Progress:
        """Restore the parts from the last save, or empty the folder to start anew.

        The parts of a finished phase are left as they are.

        Args:
            resume: resume the phase if it was interrupted.
            allow_changed_augmentation: resume also where noise clips or RIRs have changed; the rest of the
                phase is then drawn from the new ones.

        Raises:
            ParameterError: parameters have changed since; they are named.
            DataError: data or first weights have changed, or the file cannot be read.
        """
        group = processes()
        self._refuse_unlike_processes()
        record = self._folder / FINISHED_FILE
        resumes, finished = group.first((resume and is_interrupted(self._folder), record.exists()))
        if not resumes:
            if group.is_first:
                self.path.unlink(missing_ok=True)
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True)
            group.wait()
            return Progress()
        if finished:
            saved = self._read(record, read_json, set())
        else:
            saved = self._read(self.path, read_torch_file, {"parts"})
        progress = Progress(**saved["progress"], finished=finished)
        self._refuse_changes(saved["fingerprint"], progress, allow_changed_augmentation)
        self._saved_step = progress.step
        group.wait()  # until all have read what the first may change
        if finished:
            discard(self.path)
            logger.info("%s: finished before, after %d steps", self._phase, progress.step)
            return progress
        for name, part in self._parts.items():
            part.load_state_dict(saved["parts"][name])
        logger.info("%s: resuming from step %d", self._phase, progress.step)
        return progress

    def save(self, progress: Progress) -> None:
        """Save the parts in place of those before.

        Raises:
            DataError: the file cannot be written; the one before is intact.
        """
        saved = {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "progress": {"step": progress.step, "curve": progress.curve},
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
        }
        self._write(self.path, lambda file: _save_tensors(saved, file))
        self._saved_step = progress.step

    def finish(self, progress: Progress) -> None:
        """Record the phase as finished, and delete its state file.

        Raises:
            DataError: the record cannot be written; the state file is intact.
        """
        tables = {name: _digest(rows) for name, rows in self._fingerprint["tables"].items()}
        record = {
            "format": FORMAT,
            "fingerprint": self._fingerprint | {"tables": tables},
            "progress": {"step": progress.step, "curve": progress.curve},
        }
        text = json.dumps(record, indent=2)
        self._write(self._folder / FINISHED_FILE, lambda file: file.write(text.encode()))
        discard(self.path)

    @property
    def last_good(self) -> str:
        """Last saved state, as a phrase for messages."""
        if self._saved_step is None:
            return "nothing was saved before"
        return f"'{self.path}' holds the phase after {self._saved_step} steps"

    def _read(self, path: Path, read: Callable[[Path], dict[str, Any]], names: set[str]) -> dict[str, Any]:
        try:
            saved = read(path)
        except DataError as error:
            raise DataError(f"'{path}' cannot be read: {self._way_out}; {error}") from error
        found = saved.get("format", 1)
        if found != FORMAT:
            raise DataError(
                f"'{path}' has format {found}, and this version reads format {FORMAT}: {self._way_out}"
            )
        lacking = sorted(({"fingerprint", "progress"} | names) - saved.keys())
        if lacking:
            raise DataError(f"'{path}' is no interrupted phase, it lacks {lacking}: {self._way_out}")
        return saved

    def _write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        if processes().is_first:
            with report_failed_writes(path, self.last_good), atomic_write(path) as beside:
                write_through(beside, write)
        processes().wait()

    def _refuse_unlike_processes(self) -> None:
        """Refuse processes that would not train the same: of hosts with other files, for one."""
        if not processes().joined:
            return
        digests = {name: _digest(json.dumps(value)) for name, value in self._fingerprint.items()}
        everyone = processes().gather(digests)
        unlike = [name for name in digests if len({other[name] for other in everyone}) > 1]
        if unlike:
            raise DataError(
                f"{self._phase} begins with other {', '.join(unlike)} in some of the {len(everyone)} "
                "processes: all hosts must see the same project and the same files"
            )

    @property
    def _way_out(self) -> str:
        return f"start anew with {self._phase}.resume=false"

    @property
    def _way_on(self) -> str:
        return (
            f", or let the rest of the phase draw from the new ones with "
            f"{self._phase}.allow_changed_augmentation=true"
        )

    def _refuse_changes(
        self, saved: Mapping[str, Any], progress: Progress, allow_changed_augmentation: bool
    ) -> None:
        own = self._fingerprint
        parameters = list(_changed_parameters(saved["settings"], own["settings"], self._phase))
        differing = {
            name: _changed_rows(saved["tables"].get(name, ""), rows)
            for name, rows in own["tables"].items()
            if saved["tables"].get(name) not in (rows, _digest(rows))
        }
        tables = {name: f"table '{name}': {change}" for name, change in differing.items()}
        augmentation = [tables[name] for name in AUGMENTATION_TABLES if name in tables]
        if augmentation and allow_changed_augmentation:
            logger.warning(
                "%s: resuming from step %d with changed augmentation: the result will differ from that of an "
                "uninterrupted phase: %s",
                *(self._phase, progress.step, "; ".join(augmentation)),
            )
            tables = {name: change for name, change in tables.items() if name not in AUGMENTATION_TABLES}
            augmentation = []
        data = list(tables.values())
        if saved["weights"] != own["weights"]:
            data.append(f"other weights to start from: {saved['start']} then, {own['start']} now")
        for kind, changes in ((ParameterError, parameters), (DataError, data)):
            if changes:
                raise kind(
                    f"{self._phase} was interrupted after {progress.step} steps and cannot resume with what "
                    f"has changed since: {'; '.join(changes)}. Undo it, or {self._way_out}"
                    + (self._way_on if changes == augmentation else "")
                )


def discard(path: Path) -> None:
    """Delete a state file that is no longer needed, if it is there."""
    if processes().is_first:
        path.unlink(missing_ok=True)


def write_through(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file to the disk itself: a machine that fails after the renaming leaves no empty file."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _save_tensors(saved: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(saved, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch closes its archive before it lets this through
            raise error.__context__ from None
        raise


def _digest(rows: str) -> str:
    return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()


def _rows(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, header=False)


def _changed_parameters(before: Mapping[str, Any], now: Mapping[str, Any], phase: str) -> Iterator[str]:
    for name in sorted({*before, *now} - HARMLESS):
        if before.get(name) != now.get(name):
            shown = f"{phase}.{name.removeprefix('phase.')}" if name.startswith("phase.") else name
            yield f"parameter '{shown}' was {before.get(name)}, is {now.get(name)}"


def _changed_rows(before: str, now: str) -> str:
    if before and "\n" not in before:  # the digest of a finished phase
        return "its rows have changed"
    old, new = before.splitlines(), now.splitlines()
    removed, added = sorted({*old} - {*new}), sorted({*new} - {*old})
    changes = [
        f"{len(rows)} rows {what} ({' '.join(rows[:NUM_NAMED])}{' ...' if len(rows) > NUM_NAMED else ''})"
        for what, rows in (("removed", removed), ("added", added))
        if rows
    ]
    return ", ".join(changes) or "its rows are in another order"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
