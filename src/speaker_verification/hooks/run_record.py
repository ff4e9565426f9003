"""Record of a run for its report: recipe, environment, code, and parameters that differ from the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from speaker_verification.config.differences import (
    EVALUATION_GROUPS,
    TRAINING_GROUPS,
    differing_parameters,
    parameter_values,
)
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import RUN_RECORD
from speaker_verification.hooks.tracking.environment import CHANGES_TAG, COMMIT_TAG, source_tags


class RunRecordHook:
    """Puts the record of the run into the catalog, as an input of the report."""

    def __init__(self) -> None:
        self._loader: RecipeConfigLoader | None = None
        self._project = Path()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        assert isinstance(context.config_loader, RecipeConfigLoader)
        self._loader, self._project = context.config_loader, Path(context.project_path)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._loader is not None and RUN_RECORD in pipeline.inputs():
            catalog[RUN_RECORD] = MemoryDataset(run_record(self._loader, self._project))


def run_record(loader: RecipeConfigLoader, project: Path) -> dict[str, Any]:
    """The record, as plain values.

    Args:
        loader: loader of the run's parameters.
        project: folder of the project.
    """
    used = loader["parameters"]
    trained_here = used["embed"]["model"] is None
    groups = (TRAINING_GROUPS if trained_here else ()) + EVALUATION_GROUPS
    differing = differing_parameters(loader.recipe_parameters, used, groups)
    tags = source_tags(project)
    return {
        "recipe": used["recipe"] if trained_here else None,
        "environment": loader.env or loader.default_run_env,
        "commit": tags.get(COMMIT_TAG),
        "clean": tags[CHANGES_TAG] == "no" if tags else None,
        "differences": [difference._asdict() for difference in differing],
        "parameters": parameter_values(used, groups),
    }
