"""Inputs that no pipeline saves, announcements to other processes, and removal of finished pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.common.atomic import remove
from speaker_verification.common.distributed import processes
from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    CALIBRATION_EMBEDDINGS,
    DISTRIBUTED_TAG,
    EMBED_WORKSPACE,
    EMBEDDINGS,
    ENCODER,
    LAST_CHECKPOINT,
    PHASES,
    REPORT,
    RUN_RECORD,
    SETS,
    TRAINED,
    checkpoint_of,
    learning_curve_of,
    phase_of,
)
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.scoring.embeddings import EmbeddingStore


class JobsHook(ParameterisedHook):
    """Puts into the catalog all settings of each phase, as one input of its training."""

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        if self._parameters is not None:
            for phase in TRAINED:
                catalog[f"{phase}.job"] = MemoryDataset(self._parameters.job(phase), copy_mode="assign")


def workplaces(pipeline: Pipeline, catalog: CatalogProtocol) -> set[str]:
    """Working folders that the nodes of a pipeline take, by their names in the catalog."""
    from speaker_verification.datasets import FolderDataset

    datasets = {name: catalog.get(name) for name in pipeline.inputs() if not name.startswith("params:")}
    return {name for name, one in datasets.items() if isinstance(one, FolderDataset) and one.is_workplace}


def is_optional(name: str, model: str | None, started: Collection[str] = ()) -> bool:
    """Whether an input may be missing.

    Args:
        name: name of the dataset.
        model: parameter `embed.model`.
        started: phases with a `start`.
    """
    if started and name in (ENCODER, *(checkpoint_of(a) for a, b in pairwise(PHASES) if b in started)):
        return True
    always = (RUN_RECORD, CALIBRATION_EMBEDDINGS, ADAPTATION_EMBEDDINGS, *map(learning_curve_of, PHASES))
    return name in always or (model is not None and name == LAST_CHECKPOINT)


class OptionalInputsHook(ParameterisedHook):
    """Replaces optional inputs that are missing.

    With `embed.model` no phase has to be trained: evaluation takes that model, and the report has no learning
    curves. A phase that was never run has no curve either. The report alone does without the model. A
    calibration or adaptation set that no parameter names has no embeddings. A phase with a `start` does
    without the phase before, and those from it on without the encoder.
    """

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._parameters is None:
            return
        model, inputs = self._parameters.embed.model, pipeline.inputs()
        if model is not None and evaluates(pipeline):
            catalog[LAST_CHECKPOINT] = MemoryDataset(Path(model))
        elif _only_reported(pipeline) and not catalog.exists(LAST_CHECKPOINT):
            catalog[LAST_CHECKPOINT] = MemoryDataset(Path(LAST_CHECKPOINT))
        for before, phase in zip((ENCODER, *map(checkpoint_of, PHASES)), TRAINED, strict=True):
            job = self._parameters.job(phase)
            unused = {ENCODER} | ({before} if job.phase.start is not None else set())
            if job.origin is not None and f"{phase}.job" in inputs:
                for name in inputs & unused:
                    catalog[name] = MemoryDataset(Path(job.origin))
        for curve in inputs.intersection(map(learning_curve_of, PHASES)):
            if model is not None or not catalog.exists(curve):
                catalog[curve] = MemoryDataset(LEARNING_CURVE.empty())
        unnamed = set() if self._parameters.embed.calibration_set else {CALIBRATION_EMBEDDINGS}
        unnamed |= set() if self._parameters.embed.adaptation_set else {ADAPTATION_EMBEDDINGS}
        for store in inputs & unnamed:
            catalog[store] = MemoryDataset(EmbeddingStore.empty())


def evaluates(pipeline: Pipeline) -> bool:
    """Whether a pipeline takes the model of the last phase for anything but further training."""
    return any(LAST_CHECKPOINT in node.inputs and phase_of(node) is None for node in pipeline.nodes)


def _only_reported(pipeline: Pipeline) -> bool:
    """Whether the report alone takes the model."""
    takers = [node for node in pipeline.nodes if LAST_CHECKPOINT in node.inputs]
    return bool(takers) and all(node.namespace == REPORT for node in takers)


class AnnouncementHook:
    """Announces each distributed node to the other processes, which load its inputs where these are saved.

    Inputs that another node has made and that are in memory alone are sent to them.
    """

    def __init__(self) -> None:
        self._made: set[str] = set()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        self._made = pipeline.all_outputs()

    @hook_impl(trylast=True)
    def before_node_run(self, node: Node, catalog: CatalogProtocol, inputs: Mapping[str, Any]) -> None:
        if DISTRIBUTED_TAG in node.tags:
            processes().announce(node.name)
            in_memory = self._made.intersection(node.inputs)
            in_memory = {name for name in in_memory if isinstance(catalog.get(name), MemoryDataset)}
            processes().first({name: inputs[name] for name in in_memory})


class PiecesHook:
    """Deletes the pieces of embeddings at the end of a run that has saved them.

    Until then they stay, so that after a kill between two stores neither is embedded again.
    """

    def __init__(self) -> None:
        self._workspace: Path | None = None

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        embeds = EMBED_WORKSPACE in pipeline.inputs()
        self._workspace = Path(catalog[EMBED_WORKSPACE]._filepath) if embeds else None

    @hook_impl
    def after_pipeline_run(self) -> None:
        if self._workspace is not None:
            for name in (EMBEDDINGS, *SETS):
                remove(self._workspace / name)
