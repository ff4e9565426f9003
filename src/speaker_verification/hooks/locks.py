"""Locks of a run on its outputs and workspaces."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from speaker_verification.common.locks import Hold, hold
from speaker_verification.config.phases import CHECKPOINT


class LockHook:
    """Locks the outputs and workspaces of a run, so that a second run on them is refused.

    It wraps all other hooks, so that none of them reads what another run is writing.
    """

    def __init__(self) -> None:
        self._hold: Hold | None = None

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> Generator[None, None, None]:
        self._release()  # left by a run of this process that Ctrl-C has ended, after which no hook is called
        what = ", ".join(run_params.get("pipeline_names") or ["kedro run"])
        self._hold = hold(owned_paths(pipeline, catalog), what, "another data_root")
        try:
            yield
        except BaseException:
            self._release()
            raise

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None


def owned_paths(pipeline: Pipeline, catalog: CatalogProtocol) -> Iterator[Path]:
    """Local outputs and workspaces of a pipeline."""
    from speaker_verification.datasets import FolderDataset

    outputs = pipeline.all_outputs()
    for name in sorted(pipeline.datasets()):
        dataset = catalog.get(name)
        if name not in outputs and not (isinstance(dataset, FolderDataset) and dataset.is_workplace):
            continue
        path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        if path is None or getattr(dataset, "_protocol", "file") != "file":
            continue
        yield Path(path)
        if name.endswith(".workspace"):
            yield Path(path) / CHECKPOINT  # as `train` does, for whoever calls that without a pipeline
