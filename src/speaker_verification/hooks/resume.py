"""Resumption of interrupted phases: which phase resumes, and which start must not be made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import ParameterError
from speaker_verification.config.phases import CHECKPOINT, ENCODER, phase_of, trains
from speaker_verification.hooks.base import ParameterisedHook

if TYPE_CHECKING:
    from speaker_verification.config.tree import Parameters


class InterruptedPhaseHook(ParameterisedHook):
    """Refuses to recompute the inputs of an interrupted phase."""

    @hook_impl
    def before_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        nodes = pipeline.nodes
        if run_params.get("only_missing_outputs"):
            nodes = [node for node in nodes if not all(map(catalog.exists, node.outputs))]
        made = {name for node in nodes for name in node.outputs} - {ENCODER}
        for node in pipeline.nodes:
            phase = phase_of(node)
            if phase is None or self._parameters is None or not (trains(node) and made & {*node.inputs}):
                continue
            if resumes(phase, catalog, self._parameters):
                raise ParameterError(
                    f"{phase} was interrupted: --from-nodes={node.name} resumes it, "
                    f"--params={phase}.resume=false starts all anew"
                )


def workspace_of(phase: str, catalog: CatalogProtocol) -> Path:
    """Workspace folder of a phase."""
    return Path(catalog[f"{phase}.workspace"]._filepath)


def resumes(phase: str, catalog: CatalogProtocol, parameters: Parameters) -> bool:
    """Whether a phase was interrupted and will resume."""
    from speaker_verification.training.resume import is_interrupted

    return parameters.phases[phase].resume and is_interrupted(workspace_of(phase, catalog) / CHECKPOINT)
