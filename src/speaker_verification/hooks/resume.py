"""Resumption of interrupted phases: which phase resumes, and which start must not be made again."""

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
    """Refuses to recompute the inputs of an interrupted phase."""

    def __init__(self) -> None:
        self._parameters: Parameters | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._parameters = parameters_of(context)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        made = pipeline.all_outputs() - {ENCODER}
        for node in pipeline.nodes:
            phase = stage_of(node)
            remade = node.name == f"{phase}.train_phase" and made.intersection(node.inputs)
            if phase and remade and self._parameters and resumes(phase, catalog, self._parameters):
                raise ParameterError(
                    f"{phase} was interrupted: --from-nodes={phase}.train_phase resumes it, "
                    f"--params={phase}.resume=false starts all anew"
                )


def workspace_of(phase: str, catalog: CatalogProtocol) -> Path:
    """Workspace folder of a phase."""
    return Path(catalog[f"{phase}.workspace"]._filepath)


def resumes(phase: str, catalog: CatalogProtocol, parameters: Parameters) -> bool:
    """Whether a phase was interrupted and will resume."""
    from speaker_verification.training.resume import is_interrupted

    return parameters.phases[phase].resume and is_interrupted(workspace_of(phase, catalog) / CHECKPOINT)
