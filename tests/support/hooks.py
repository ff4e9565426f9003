"""Hooks with a real context and catalog of a project, and no process of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS


class Session:
    """Hook calls of a Kedro run, up to its first node.

    Args:
        folder: project with the environment `tiny`.
        hooks: hooks to call.
        parameters: values of the command line.
    """

    def __init__(self, folder: Path, *hooks: object, **parameters: Any) -> None:
        self.manager = _create_hook_manager()
        for hook in hooks:
            self.manager.register(hook)
        loader = RecipeConfigLoader(
            str(folder / "conf"), env="tiny", runtime_params=parameters, **CONFIG_LOADER_ARGS
        )
        context = KedroContext(
            project_path=folder,
            config_loader=loader,
            env="tiny",
            package_name="speaker_verification",
            hook_manager=self.manager,
            runtime_params=parameters,
        )
        self.manager.hook.after_context_created(context=context)
        self.catalog: CatalogProtocol = context.catalog

    def start(self, pipeline: Pipeline, **run_params: Any) -> None:
        self.manager.hook.before_pipeline_run(pipeline=pipeline, catalog=self.catalog, run_params=run_params)
