"""Record of a run for its report: recipe, environment, code, and parameters that differ from the recipe."""

from __future__ import annotations

import subprocess
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
)
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import RUN_RECORD

GIT_SECONDS = 10


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
    commit, clean = revision(project)
    return {
        "recipe": used["recipe"] if trained_here else None,
        "environment": loader.env or loader.default_run_env,
        "commit": commit,
        "clean": clean,
        "differences": [difference._asdict() for difference in differing],
    }


def revision(project: Path) -> tuple[str | None, bool | None]:
    """Commit of a folder, and whether its tracked files are those of the commit; None outside of git."""
    command = ["git", "-C", str(project), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    lines = answer.stdout.splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return None, None
    return commits[0], all(line.startswith("#") for line in lines)
