"""How a phase that was interrupted goes on as if it had not been.

Beside the folder of the best epochs lies one file, `FOLDER.resume`, with all that the rest of the phase
depends on: weights, optimiser, averages, the epoch's sums, ranking, learning curve and random states. It is
replaced whole, so that neither a kill nor a full disk costs the one before. A phase whose folder has been
handed on is finished, not interrupted, even if this file is there.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.speaker_model import weights_digest
from speaker_verification.models.weight_files import read_torch_file
from speaker_verification.training.failures import report_failed_writes

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

logger = logging.getLogger(__name__)

# What may change while a phase is interrupted: what has been trained does not depend on it.
HARMLESS = {
    "augmentation.cache_megabytes",
    "phase.allow_changed_augmentation",
    "phase.keep_checkpoints",
    "phase.num_workers",
    "phase.resume",
    "phase.save_every_steps",
}
# What later examples are drawn from: with the user's leave a phase goes on with others.
AUGMENTATION_TABLES = ("noise_clips", "rirs")
NUM_NAMED = 3  # changed rows that a message shows


@dataclass(frozen=True)
class Origin:
    """What a phase begins with, and must find unchanged to go on.

    Attributes:
        phase: name of its parameters, for messages.
        parameters: plain values, nested; the phase's own stand under `phase`.
        start: where its first weights come from, for messages.
        tables: what it hears, by name, with the columns that matter.
    """

    phase: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass
class Progress:
    """How far a phase has come: optimiser steps taken, and rows of its learning curve."""

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


def resume_path(folder: Path) -> Path:
    """The file from which the phase that fills a folder can go on."""
    return folder.with_name(f"{folder.name}.resume")


def is_interrupted(folder: Path) -> bool:
    """Whether the phase that fills a folder has stopped on the way, or not handed the folder on."""
    return folder.exists() and resume_path(folder).exists()


class ResumePoint:
    """Saves a running phase, and brings an interrupted one back to where it was saved."""

    def __init__(self, folder: Path, origin: Origin, parts: Mapping[str, Stateful]) -> None:
        """Take note of the start.

        Args:
            folder: of the best epochs.
            origin: what the phase begins with.
            parts: all that changes in training, by name, as it is at the start; `modules` holds the weights.
        """
        self.path = resume_path(folder)
        self._folder = folder
        self._parts = parts
        self._phase = origin.phase
        self._origin: dict[str, Any] = {
            "parameters": dict(_flatten(json.loads(json.dumps(origin.parameters)))),
            "tables": {name: _rows(table) for name, table in origin.tables.items()},
            "start": origin.start,
            "weights": weights_digest(parts["modules"].state_dict()),
        }
        self._saved_step: int | None = None

    def begin(self, resume: bool, allow_changed_augmentation: bool = False) -> Progress:
        """Bring parts and random states back to the last save, or empty the folder to start anew.

        Args:
            resume: go on if the phase was interrupted.
            allow_changed_augmentation: go on also where noise clips or RIRs have changed since; the
                rest of the phase is then drawn from the new ones.

        Raises:
            ParameterError: parameters have changed since; they are named.
            DataError: data or first weights have changed, or the file cannot be read.
        """
        if not (resume and is_interrupted(self._folder)):
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            return Progress()
        saved = self._read()
        progress = Progress(**saved["progress"])
        self._refuse_changes(saved["origin"], progress.step, allow_changed_augmentation)
        self._saved_step = progress.step
        for name, part in self._parts.items():
            part.load_state_dict(saved["parts"][name])
        _set_random_states(saved["random"])
        logger.info("%s: resuming from step %d", self._phase, progress.step)
        return progress

    def save(self, progress: Progress) -> None:
        """Save parts and random states in place of those before.

        Raises:
            DataError: the file cannot be written; the one before is still there.
        """
        saved = {
            "origin": self._origin,
            "progress": vars(progress),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "random": _random_states(),
        }
        with report_failed_writes(self.path, self.last_good), atomic_write(self.path) as beside:
            _write_through(saved, beside)
        self._saved_step = progress.step

    def _read(self) -> dict[str, Any]:
        try:
            saved = read_torch_file(self.path)
        except DataError as error:
            raise DataError(f"'{self.path}' cannot be read: {self._way_out}; {error}") from error
        lacking = sorted({"origin", "progress", "parts", "random"} - saved.keys())
        if lacking:
            raise DataError(f"'{self.path}' is no interrupted phase, it lacks {lacking}: {self._way_out}")
        return saved

    @property
    def last_good(self) -> str:
        """What has been saved, for messages."""
        if self._saved_step is None:
            return "nothing was saved before"
        return f"'{self.path}' holds the phase after {self._saved_step} steps"

    @property
    def _way_out(self) -> str:
        return f"start anew with --params={self._phase}.resume=false"

    @property
    def _way_on(self) -> str:
        return (
            f", or let the rest of the phase draw from the new ones with "
            f"--params={self._phase}.allow_changed_augmentation=true"
        )

    def _refuse_changes(self, saved: Mapping[str, Any], step: int, allow_changed_augmentation: bool) -> None:
        own = self._origin
        parameters = list(_changed_parameters(saved["parameters"], own["parameters"], self._phase))
        tables = {
            name: f"table '{name}': {_changed_rows(saved['tables'].get(name, ''), rows)}"
            for name, rows in own["tables"].items()
            if rows != saved["tables"].get(name)
        }
        augmentation = [tables[name] for name in AUGMENTATION_TABLES if name in tables]
        if augmentation and allow_changed_augmentation:
            logger.warning(
                "%s: resuming from step %d with changed augmentation: the result will differ from that of an "
                "uninterrupted phase: %s",
                *(self._phase, step, "; ".join(augmentation)),
            )
            tables = {name: change for name, change in tables.items() if name not in AUGMENTATION_TABLES}
            augmentation = []
        data = list(tables.values())
        if saved["weights"] != own["weights"]:
            data.append(f"other weights to start from: {saved['start']} then, {own['start']} now")
        for kind, changes in ((ParameterError, parameters), (DataError, data)):
            if changes:
                raise kind(
                    f"{self._phase} was interrupted after {step} steps and cannot go on with what has "
                    f"changed since: {'; '.join(changes)}. Undo it, or {self._way_out}"
                    + (self._way_on if changes == augmentation else "")
                )


def _write_through(saved: dict[str, Any], path: Path) -> None:
    """Write to the disk itself: a machine that fails after the renaming leaves no empty file."""
    with path.open("wb") as file:
        try:
            torch.save(saved, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch closes its archive before it lets this through
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _rows(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, header=False)


def _changed_parameters(before: Mapping[str, Any], now: Mapping[str, Any], phase: str) -> Iterator[str]:
    for name in sorted({*before, *now} - HARMLESS):
        if before.get(name) != now.get(name):
            shown = f"{phase}.{name.removeprefix('phase.')}" if name.startswith("phase.") else name
            yield f"parameter '{shown}' was {before.get(name)}, is {now.get(name)}"


def _changed_rows(before: str, now: str) -> str:
    old, new = before.splitlines(), now.splitlines()
    removed, added = sorted({*old} - {*new}), sorted({*new} - {*old})
    changes = [
        f"{len(rows)} rows {what} ({' '.join(rows[:NUM_NAMED])}{' ...' if len(rows) > NUM_NAMED else ''})"
        for what, rows in (("removed", removed), ("added", added))
        if rows
    ]
    return ", ".join(changes) or "its rows stand in another order"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _random_states() -> dict[str, Any]:
    """Of all that training draws from: dropouts and layer drop from torch's, time masks from NumPy's."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
