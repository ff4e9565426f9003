"""Resumption of interrupted phases, and the end of their resume files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import ParameterError
from speaker_verification.config.loader import parameters_of
from speaker_verification.config.phases import CHECKPOINT, ENCODER, stage_of

if TYPE_CHECKING:
    from speaker_verification.config.tree import Parameters


class InterruptedPhaseHook:
    """Refuses to make again what an interrupted phase starts from, and clears up behind a finished one."""

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._catalog: CatalogProtocol | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._parameters = parameters_of(context)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._catalog = catalog
        made = pipeline.all_outputs() - {ENCODER}
        for node in pipeline.nodes:
            phase = stage_of(node)
            remade = node.name == f"{phase}.train_phase" and made.intersection(node.inputs)
            if phase and remade and self._parameters and goes_on(phase, catalog, self._parameters):
                raise ParameterError(
                    f"{phase} was interrupted: --from-nodes={phase}.train_phase goes on from there, "
                    f"--params={phase}.resume=false begins all anew"
                )

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        phase, _, name = dataset_name.partition(".")
        if name == CHECKPOINT and self._catalog is not None:
            from speaker_verification.training.resume import resume_path

            resume_path(workspace_of(phase, self._catalog) / CHECKPOINT).unlink(missing_ok=True)


def workspace_of(phase: str, catalog: CatalogProtocol) -> Path:
    """Workspace folder of a phase."""
    return Path(catalog[f"{phase}.workspace"]._filepath)


def goes_on(phase: str, catalog: CatalogProtocol, parameters: Parameters) -> bool:
    """Whether a phase was interrupted and will go on from there."""
    from speaker_verification.training.resume import is_interrupted

    return parameters.phases[phase].resume and is_interrupted(workspace_of(phase, catalog) / CHECKPOINT)
