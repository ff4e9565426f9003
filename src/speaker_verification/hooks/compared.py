"""Addresses of the evaluations that `compare_runs` compares, of which MLflow knows some by their runs."""

from __future__ import annotations

import re
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.config.phases import COMPARED, EVALUATION
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.hooks.tracking.runs import ADDRESS_TAG, PARENT_TAG
from speaker_verification.hooks.tracking.settings import TrackingSettings

RUN_ID = re.compile(r"[0-9a-f]{32}")
NEWEST_RUNS = 100  # of an experiment, among which an evaluation is looked for

Address = tuple[Path, str | None]


class ComparedHook(ParameterisedHook):
    """Puts data roots and versions of the compared evaluations into the catalog."""

    def __init__(self) -> None:
        super().__init__()
        self._context: KedroContext | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        super().after_context_created(context)
        self._context = context

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if COMPARED not in pipeline.inputs() or self._parameters is None or self._context is None:
            return
        runs = self._parameters.compare_runs.runs
        if len(runs) < 2:
            raise ParameterError(
                f"compare_runs.runs names {len(runs)} evaluations: name two or more, as "
                '--params="compare_runs.runs=data/one;data/other"'
            )
        if len(set(runs)) < len(runs):
            raise ParameterError("compare_runs.runs names an evaluation twice")
        project = Path(self._context.project_path)
        settings = TrackingSettings.parse(self._context.config_loader["tracking"], "tracking.yml")
        uri = settings.store(project).uri
        catalog[COMPARED] = MemoryDataset([_address(run, project, uri) for run in runs])


def _address(run: str, project: Path, uri: str) -> Address:
    """Data root and version of an evaluation."""
    text = _evaluation_of(run, uri) if RUN_ID.fullmatch(run) else run
    root, _, version = text.partition("@")
    return project / root, version or None


def _evaluation_of(run_id: str, uri: str) -> str:
    """DATA_ROOT@VERSION of an MLflow run: an evaluation's, or an experiment's newest one.

    Raises:
        DataError: there is no such run, or none that says where its scores are.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    try:
        run = client.get_run(run_id)
        children = client.search_runs(
            [run.info.experiment_id],
            f"tags.`{PARENT_TAG}` = '{run_id}' and tags.stage = '{EVALUATION}'",
            order_by=["attributes.start_time DESC"],
            max_results=NEWEST_RUNS,
        )
    except MlflowException as error:
        raise DataError(f"compare_runs: MLflow at {uri} does not give run {run_id}: {error}") from error
    found = (known.data.tags.get(ADDRESS_TAG) for known in (run, *children))
    if address := next(filter(None, found), None):
        return address
    raise DataError(
        f"compare_runs: run {run_id} does not say where its scores are: name them, as DATA_ROOT@VERSION"
    )
