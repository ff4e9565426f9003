"""Hooks with a real context and catalog of a project, and no process of their own."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from pluggy import PluginManager

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS

_KEPT: dict[str, dict[str, Any]] = {}


def context_of(
    folder: Path, manager: PluginManager, env: str | None, parameters: dict[str, Any]
) -> KedroContext:
    """Context of a project, after the hooks of its creation.

    Its configuration, which takes long to read, is kept for projects with the same files.

    Args:
        folder: the project.
        manager: manager of the hooks.
        env: environment.
        parameters: values of the command line.
    """
    loader = RecipeConfigLoader(
        str(folder / "conf"), env=env, runtime_params=parameters, **CONFIG_LOADER_ARGS
    )
    files = [(str(file.relative_to(folder)), file.read_text()) for file in folder.glob("conf/**/*.yml")]
    for name in ("globals", "parameters", "catalog", "credentials", "tracking"):
        key = repr((name, env, parameters, sorted(files)))
        if key not in _KEPT:
            _KEPT[key] = loader[name]
        loader[name] = deepcopy(_KEPT[key])
    context = KedroContext(
        project_path=folder,
        config_loader=loader,
        env=env,
        package_name="speaker_verification",
        hook_manager=manager,
        runtime_params=parameters,
    )
    manager.hook.after_context_created(context=context)
    return context


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
        context = context_of(folder, self.manager, "tiny", parameters)
        self.catalog: CatalogProtocol = context.catalog

    def start(self, pipeline: Pipeline, **run_params: Any) -> None:
        self.manager.hook.before_pipeline_run(pipeline=pipeline, catalog=self.catalog, run_params=run_params)
