"""Inputs of comparisons: evaluations, of which MLflow knows some by their runs, and trainings to come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import COMPARED, EVALUATION, PHASES, PLANNED
from speaker_verification.config.planned_runs import (
    PlannedComparison,
    PlannedRun,
    RunSurroundings,
    plan_runs,
)
from speaker_verification.config.tree import check_parameters
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.hooks.tracking.runs import ADDRESS_TAG, PARENT_TAG
from speaker_verification.hooks.tracking.settings import TrackingSettings
from speaker_verification.pipelines.compare_runs.evaluations import EvaluationAddress

RUN_ID = re.compile(r"[0-9a-f]{32}")
NEWEST_RUNS = 100  # of an experiment, among which an evaluation is looked for


class ComparedHook(ParameterisedHook):
    """Puts the evaluations of `compare_runs`, and the planned runs of `compare`, into the catalog."""

    def __init__(self) -> None:
        super().__init__()
        self._context: KedroContext | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        super().after_context_created(context)
        self._context = context

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._parameters is None or self._context is None:
            return
        if PLANNED in pipeline.inputs():
            planned = _planned(self._context, catalog)
            catalog[PLANNED] = MemoryDataset(planned, copy_mode="assign")
        if COMPARED in pipeline.inputs():
            catalog[COMPARED] = MemoryDataset(_addresses(self._parameters.compare_runs.runs, self._context))


def _planned(context: KedroContext, catalog: CatalogProtocol) -> PlannedComparison:
    """Runs that `compare` trains.

    Raises:
        UserError: a system is impossible, by itself, beside the others or on the prepared corpus.
    """
    loader = context.config_loader
    assert isinstance(loader, RecipeConfigLoader)
    runs = plan_runs(loader)
    _refuse_impossible([run for run in runs if run.seed == runs[0].seed], catalog)
    project, conf = Path(context.project_path), Path(loader.conf_source)
    settings = {name: dict(loader[name]) for name in ("globals", "tracking")}
    environment = loader.env if loader.env not in (None, loader.base_env) else loader.default_run_env
    return PlannedComparison(
        runs,
        RunSurroundings(
            project, project / conf, str(environment), project / settings["globals"]["data_root"], settings
        ),
    )


def _refuse_impossible(systems: Sequence[PlannedRun], catalog: CatalogProtocol) -> None:
    """Refuse a system that the prepared corpus, or this machine, cannot serve.

    What is not prepared is refused with the other inputs that are missing.
    """
    from speaker_verification.config import feasibility

    names = ("utterances", "trials", "validation_utterances", "noise_clips", "rirs")
    if not all(catalog.exists(name) for name in names):
        return
    utterances, trials, validation, noise_clips, rirs = (catalog.load(name) for name in names)
    downloads = Path(catalog["encoders_folder"]._filepath)
    for system in systems:
        parameters = check_parameters(system.parameters)
        checkpoint = parameters.model.frontend.checkpoint
        try:
            feasibility.refuse_impossible(parameters, utterances, trials, stages=(*PHASES, EVALUATION))
            feasibility.refuse_missing_augmentation(parameters, PHASES, noise_clips, rirs)
            feasibility.refuse_other_split(parameters.prepare, utterances, validation)
            if checkpoint is not None:
                feasibility.locate_encoder(checkpoint, downloads)
        except UserError as error:
            raise type(error)(f"compare.systems.{system.system}: {error}") from error


def _addresses(runs: Sequence[str], context: KedroContext) -> list[EvaluationAddress]:
    """Evaluations that `compare_runs` compares.

    Raises:
        ParameterError: there are fewer than two of them.
    """
    if len(runs) < 2:
        raise ParameterError(
            f"compare_runs.runs names {len(runs)} evaluations: name two or more, as "
            '--params="compare_runs.runs=data/one;data/other"'
        )
    if len(set(runs)) < len(runs):
        raise ParameterError("compare_runs.runs names an evaluation twice")
    project = Path(context.project_path)
    settings = TrackingSettings.parse(context.config_loader["tracking"], "tracking.yml")
    uri = settings.store(project).uri
    return [_address(run, project, uri) for run in runs]


def _address(run: str, project: Path, uri: str) -> EvaluationAddress:
    """Data root and version of an evaluation."""
    text = _evaluation_of(run, uri) if RUN_ID.fullmatch(run) else run
    root, _, version = text.partition("@")
    return EvaluationAddress(project / root, version or None)


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
