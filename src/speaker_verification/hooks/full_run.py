"""Estimate of the full recipe by a shortened run of it (`fast_dev_run`): time, memory and disk by stage."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.common.progress import duration_text
from speaker_verification.common.text_table import aligned
from speaker_verification.hooks.inputs import workplaces

if TYPE_CHECKING:
    from speaker_verification.training.phase import PhaseSettings
    from speaker_verification.training.timing import PhaseTimes

GIGABYTE = 1e9


@dataclass
class StageUse:
    """Resources that a stage of a run takes.

    Attributes:
        seconds: time.
        memory_bytes: peak resident memory of the process until the end of the stage, without its workers.
        gpu_bytes: peak memory of tensors on the GPU.
        disk_bytes: size of all that the stage leaves below the data root.
        checkpoint_bytes: size of the best epochs, a part of it.
        epochs: epochs of a phase.
        steps_per_epoch: optimiser steps of an epoch.
        step_seconds: time of an optimiser step.
    """

    seconds: float = 0.0
    memory_bytes: int = 0
    gpu_bytes: int = 0
    disk_bytes: int = 0
    checkpoint_bytes: int = 0
    epochs: int | None = None
    steps_per_epoch: int | None = None
    step_seconds: float | None = None

    def in_full(self, quick: PhaseSettings, full: PhaseSettings, times: PhaseTimes) -> StageUse:
        """Resources of the whole phase, from those of a shortened one.

        Args:
            quick: settings of the shortened phase.
            full: settings of the whole phase.
            times: times of the parts of the shortened phase.
        """
        checkpoint_bytes = self.checkpoint_bytes * full.num_kept // quick.num_kept
        return StageUse(
            times.full_seconds(self.seconds, full),
            self.memory_bytes,
            self.gpu_bytes,
            self.disk_bytes - self.checkpoint_bytes + checkpoint_bytes,
            checkpoint_bytes,
            full.epochs,
            full.num_steps(times.examples_of_pass),
            times.step_seconds if times.training else None,
        )


def note_memory(use: StageUse) -> None:
    """Note the peak memory so far; the GPU's begins anew for the next stage."""
    unit = 1 if sys.platform == "darwin" else 1024
    use.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")  # a stage that has not imported it has no GPU
    if torch is not None and torch.cuda.is_initialized():
        use.gpu_bytes = max(use.gpu_bytes, torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()


def stage_name(node: Node) -> str:
    """Innermost namespace of a node, a pipeline's name; of a node without one its own name."""
    return (node.namespace or node.name).rpartition(".")[2]


def left_by(stage: str, pipeline: Pipeline, catalog: CatalogProtocol) -> set[Path]:
    """Files and folders that the nodes of a stage have made or worked in.

    Args:
        stage: name of the stage.
        pipeline: pipeline that was run.
        catalog: catalog of the run.
    """
    nodes = Pipeline([node for node in pipeline.nodes if stage_name(node) == stage])
    names = nodes.all_outputs() | workplaces(nodes, catalog)
    return {path for name in names if (path := path_of(name, catalog)) is not None}


def path_of(name: str, catalog: CatalogProtocol) -> Path | None:
    """Local file or folder of a dataset, of a versioned one the newest version; None where it has none."""
    dataset: Any = catalog.get(name)
    path = getattr(dataset, "_filepath", None)
    if path is None or getattr(dataset, "_protocol", "file") != "file":
        return None
    is_versioned = getattr(dataset, "_version", None) is not None
    return Path(dataset._get_load_path() if is_versioned else path)


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    total = 0
    for path in paths:
        if path.is_dir():
            with os.scandir(path) as entries:
                total += size_of(Path(entry.path) for entry in entries if not entry.is_symlink())
        elif path.is_file():
            total += path.stat().st_size
    return total


def format_estimate(stages: Mapping[str, StageUse]) -> str:
    """Resources by stage as lines of text, with their totals."""
    total = StageUse(
        sum(use.seconds for use in stages.values()),
        max(use.memory_bytes for use in stages.values()),
        max(use.gpu_bytes for use in stages.values()),
        sum(use.disk_bytes for use in stages.values()),
    )
    cells = {
        "stage": lambda name, use: name,
        "epochs": lambda name, use: "" if use.epochs is None else str(use.epochs),
        "steps": lambda name, use: "" if use.steps_per_epoch is None else f"{use.steps_per_epoch:,}",
        "s a step": lambda name, use: "" if use.step_seconds is None else f"{use.step_seconds:.3f}",
        "time": lambda name, use: duration_text(use.seconds),
        "memory GB": lambda name, use: f"{use.memory_bytes / GIGABYTE:.1f}",
        "GPU GB": lambda name, use: f"{use.gpu_bytes / GIGABYTE:.1f}",
        "disk GB": lambda name, use: f"{use.disk_bytes / GIGABYTE:.3f}",
    }
    if not total.gpu_bytes:
        del cells["GPU GB"]
    lines = [
        [cell(name, use) for cell in cells.values()] for name, use in [*stages.items(), ("total", total)]
    ]
    return "\n".join(aligned([*cells], lines, text_columns=("stage",)))


def plain_estimate(stages: Mapping[str, StageUse]) -> dict[str, dict[str, Any]]:
    """Resources by stage as plain values, without those that a stage does not have."""
    return {
        name: {key: value for key, value in asdict(use).items() if value is not None}
        for name, use in stages.items()
    }
