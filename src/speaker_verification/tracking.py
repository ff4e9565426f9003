"""MLflow: one run per training phase and one for the evaluation, under a parent run per experiment.

An experiment begins with pre-training; phases and evaluations that are run later, alone, join the newest
one, and a phase that goes on where it was interrupted does so in its own run. Phases use the same names for
the same metrics and parameters, so that MLflow lays them side by side; error rates also go to the parent, so
that whole experiments compare.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.configuration import Settings

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PHASES = ("pretrain", "finetune", "lmft")
CHECKPOINT = "checkpoint"  # folder of its workspace that a phase fills
EVALUATION = "evaluate"
EVALUATION_STEPS = ("embed", "cosine", "as_norm", "qmf", "report")
EVALUATION_PARAMETERS = ("recipe", "embed", "score")
PHASE_PARAMETERS = ("recipe", "model", "head", "augmentation", "seed")
SQLITE = "sqlite:///"
PARENT_TAG = "mlflow.parentRunId"
LONGEST_VALUE = 6000  # characters; MLflow refuses longer parameters


class TrackingSettings(Settings):
    """Contents of tracking.yml."""

    enabled: bool = True
    tracking_uri: str
    experiment: str
    artifact_location: str | None = None
    log_checkpoints: bool = True

    def in_project(self, project_path: Path) -> TrackingSettings:
        """With a relative SQLite file, and the artifacts beside it, taken from the project's folder."""
        file = self.tracking_uri.removeprefix(SQLITE)
        if file == self.tracking_uri:
            return self
        database = project_path / file
        artifacts = self.artifact_location or (database.parent / "mlartifacts").as_uri()
        return self.model_copy(update={"tracking_uri": f"{SQLITE}{database}", "artifact_location": artifacts})


def log_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
    """Log an epoch's metrics to the open MLflow run, if there is one; what it has of that epoch stays."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or (run := mlflow.active_run()) is None:
        return
    history_of = mlflow.MlflowClient().get_metric_history
    new = {
        name: value
        for name, value in metrics.items()
        if all(point.step != epoch for point in history_of(run.info.run_id, name))
    }
    mlflow.log_metrics(new, step=epoch)


def stage_of(node: Node) -> str | None:
    """The run a node belongs to: a phase, the evaluation, or none."""
    namespace = (node.namespace or "").split(".")[0]
    if namespace in PHASES:
        return namespace
    if namespace in EVALUATION_STEPS or "evaluation" in node.tags:
        return EVALUATION
    return None


def workspace_of(phase: str, catalog: CatalogProtocol) -> Path:
    """Where a phase works."""
    return Path(catalog[f"{phase}.workspace"]._filepath)


def goes_on(phase: str, catalog: CatalogProtocol, parameters: Mapping[str, Any]) -> bool:
    """Whether a phase was interrupted and will go on from there."""
    from speaker_verification.training.resume import is_interrupted

    return parameters[phase]["resume"] and is_interrupted(workspace_of(phase, catalog) / CHECKPOINT)


class TrackingHook:
    """Opens and closes runs round nodes, and logs what the catalog saves with `metadata: {mlflow: ...}`.

    `mlflow: artifact` logs the file or folder, `mlflow: checkpoint` likewise unless tracking.yml says not to,
    `mlflow: metrics` also logs its numbers.
    """

    def __init__(self) -> None:
        self._settings: TrackingSettings | None = None
        self._parameters: dict[str, Any] = {}
        self._env = ""
        self._catalog: CatalogProtocol | None = None
        self._parent: str | None = None
        self._stages: dict[str, str] = {}
        self._open_stage: str | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        settings = TrackingSettings.parse(context.config_loader["tracking"], "tracking.yml")
        on_this_process = int(os.environ.get("RANK", 0)) == 0
        tracked = settings.enabled and on_this_process
        self._settings = settings.in_project(context.project_path) if tracked else None
        self._parameters = context.params
        self._env = str(context.env)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        stages = {stage_of(node) for node in pipeline.nodes} - {None}
        if self._settings is None or not stages:
            return
        import mlflow

        self._catalog = catalog
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or self._settings.tracking_uri)
        experiment = mlflow.get_experiment_by_name(self._settings.experiment)
        if experiment is None:
            mlflow.create_experiment(self._settings.experiment, self._settings.artifact_location)
        mlflow.set_experiment(self._settings.experiment)
        interrupted = self._interrupted_runs(stages)
        self._stages = {phase: run.info.run_id for phase, run in interrupted.items()}
        if interrupted:
            self._parent = next(iter(interrupted.values())).data.tags[PARENT_TAG]
        elif PHASES[0] not in stages:
            self._parent = self._newest_parent()
        if self._parent:
            mlflow.start_run(run_id=self._parent)
        else:
            name = f"{self._env} {self._parameters['recipe']} {datetime.now():%Y-%m-%d %H.%M.%S}"
            run = mlflow.start_run(run_name=name, tags={"stage": "experiment", "env": self._env})
            self._parent = run.info.run_id
            mlflow.log_params(dict(_flatten(self._parameters)))
            mlflow.log_dict(self._parameters, "parameters.yml")
        self._open_stage = None
        atexit.register(self._close, "KILLED")  # for Ctrl-C and sys.exit no hook is called
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        stage = stage_of(node)
        if self._parent is None or stage == self._open_stage:
            return
        import mlflow

        if self._open_stage:
            mlflow.end_run()
        self._open_stage = stage
        if stage is None:
            return
        known = self._stages.get(stage)
        tags = {"stage": stage, "env": self._env}
        if stage in PHASES and self._catalog is not None:
            workspace = workspace_of(stage, self._catalog)
            tags["workspace"] = str(workspace)
            for lost in _runs_in(workspace):
                if lost.info.status == "RUNNING" and lost.info.run_id != known:
                    mlflow.MlflowClient().set_terminated(lost.info.run_id, "KILLED")
        run = mlflow.start_run(run_id=known, run_name=stage, nested=True, tags=tags)
        if known is None:
            self._stages[stage] = run.info.run_id
            mlflow.log_params(dict(_flatten(self._stage_parameters(stage))))
        elif "error" in run.data.tags:
            mlflow.delete_tag("error")  # what had interrupted it

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        if self._parent is None or self._catalog is None:
            return
        dataset = self._catalog[dataset_name]
        kind = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        if kind is None or (kind == "checkpoint" and self._settings and not self._settings.log_checkpoints):
            return
        import mlflow

        path = Path(dataset._get_load_path())
        if path.is_dir():
            mlflow.log_artifacts(str(path), dataset_name.split(".")[-1])
        else:
            mlflow.log_artifact(str(path))
        if kind == "metrics":
            numbers = {name: value for name, value in _flatten(data) if isinstance(value, float)}
            mlflow.log_metrics(numbers)
            mlflow.log_metrics(numbers, run_id=self._parent)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._close("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        if self._parent is not None:
            import mlflow

            mlflow.set_tag("error", f"{type(error).__name__}: {error}"[:LONGEST_VALUE])
        self._close("FAILED")

    def _close(self, status: str) -> None:
        if self._parent is None:
            return
        import mlflow

        while mlflow.active_run() is not None:
            mlflow.end_run(status)
        self._parent = None
        atexit.unregister(self._close)

    def _newest_parent(self) -> str | None:
        found = _newest_runs("tags.stage = 'experiment'")
        return found[0].info.run_id if found else None

    def _interrupted_runs(self, stages: Collection[str | None]) -> dict[str, Run]:
        """Runs of the phases that will go on."""
        runs: dict[str, Run] = {}
        for phase in PHASES:
            if phase in stages and self._catalog and goes_on(phase, self._catalog, self._parameters):
                found = _runs_in(workspace_of(phase, self._catalog))
                if found and found[0].info.status != "FINISHED":
                    runs[phase] = found[0]
        return runs

    def _stage_parameters(self, stage: str) -> Mapping[str, Any]:
        if stage in PHASES:
            shared = {name: self._parameters[name] for name in PHASE_PARAMETERS}
            return {**self._parameters[stage], **shared}
        return {name: self._parameters[name] for name in EVALUATION_PARAMETERS}


def _newest_runs(condition: str) -> list[Run]:
    """Runs of the experiment, the newest first."""
    import mlflow

    newest_first = ["attributes.start_time DESC"]
    return mlflow.search_runs(filter_string=condition, order_by=newest_first, output_format="list")


def _runs_in(workspace: Path) -> list[Run]:
    return _newest_runs(f"tags.workspace = '{workspace}'")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            numeric = isinstance(value, (int, float, str))
            yield f"{prefix}{name}", value if numeric else json.dumps(value)[:LONGEST_VALUE]
