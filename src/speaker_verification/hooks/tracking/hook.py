"""Hook that opens and ends runs around nodes, and logs what they save."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.common.termination import exit_on_signal, handle_termination
from speaker_verification.config.loader import parameters_of
from speaker_verification.config.phases import (
    CHECKPOINT,
    COHORT_EMBEDDINGS,
    COMPARE,
    EMBEDDINGS,
    EVALUATION,
    IMPORT,
    LAST_CHECKPOINT,
    RATES,
    SETS,
    learning_curve_of,
    stage_of,
    trains,
)
from speaker_verification.hooks.resume import resumes, workspace_of
from speaker_verification.hooks.tracking.environment import machine_tags, source_tags
from speaker_verification.hooks.tracking.ids import (
    IDS_FILE,
    beside,
    best_of,
    ids_of_model,
    model_to_evaluate,
    read_ids,
    write_json,
)
from speaker_verification.hooks.tracking.inputs import TrackedTable, tracked_tables
from speaker_verification.hooks.tracking.log import RunLog
from speaker_verification.hooks.tracking.results import (
    compared_numbers,
    description,
    epoch_metric_name,
    first_rate,
    headlines,
    numbers,
)
from speaker_verification.hooks.tracking.runs import (
    ADDRESS_TAG,
    COMPARISON_TAG,
    NOTE_TAG,
    Ids,
    TrackedRun,
)
from speaker_verification.hooks.tracking.settings import (
    FIGURE,
    KINDS,
    METRICS,
    REPORT,
    VERIFIER,
    TrackingSettings,
)
from speaker_verification.hooks.tracking.store import Store
from speaker_verification.hooks.tracking.system_metrics import SystemMetricsSampler

if TYPE_CHECKING:
    from speaker_verification.config.tree import Parameters

logger = logging.getLogger(__name__)

EVALUATION_PARAMETERS = ("recipe", "embed", "score")
COMPARE_PARAMETERS = (COMPARE, "compare_runs")
PHASE_PARAMETERS = ("recipe", "model", "head", "augmentation", "seed")
MARKED = (EMBEDDINGS, COHORT_EMBEDDINGS, "calibration")  # later evaluations start from these


@dataclass
class _Stage:
    """A phase or an evaluation of this pipeline run.

    Attributes:
        run: run in MLflow.
        resumed: whether an interrupted phase is resumed.
        workspace: workspace folder of a phase.
        model: folder of the evaluated model, where it is known.
        unsaved: outputs of a phase's training that are not saved yet.
        trained_at: end of a phase's training in ms since 1970.
        remembered: ids that were written to the workspace.
        tables: data sets of the run by name.
        unlogged: those of them that are logged when the run is opened.
        described: whether code, versions and machine are logged.
        sampler: of system metrics while a phase trains.
    """

    run: TrackedRun
    resumed: bool = False
    workspace: Path | None = None
    model: Path | None = None
    unsaved: set[str] = field(default_factory=set)
    trained_at: int | None = None
    remembered: Ids = field(default_factory=dict)
    tables: dict[str, TrackedTable] = field(default_factory=dict)
    unlogged: list[TrackedTable] = field(default_factory=list)
    described: bool = False
    sampler: SystemMetricsSampler | None = None


_current: TrackingHook | None = None  # of the pipeline that this process runs


def begin(stage: str, curve: Sequence[Mapping[str, Any]] = ()) -> None:
    """Open the run of a phase or of the evaluation, once all checks have passed.

    Args:
        stage: name of the phase, or EVALUATION.
        curve: rows of the learning curve of an interrupted phase, of which missing points are logged.
    """
    if _current is not None:
        _current.begin(stage, curve)


class PhaseTracker:
    """Receiver of the metrics of a phase, as `training.loop.Tracker`, that logs them to its run.

    Args:
        phase: name of the phase.
    """

    def __init__(self, phase: str) -> None:
        self._phase = phase

    @property
    def ids(self) -> Ids:
        """MLflow's ids of the run of the phase, `run`, and of its experiment's run, `experiment`.

        They are filled in when the runs are made; empty where nothing is tracked.
        """
        return {} if _current is None else _current.ids_of(self._phase)

    def begin(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Open the run of the phase, and log what it lacks of a learning curve."""
        begin(self._phase, curve)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics; what the run has of that epoch stays."""
        if _current is not None:
            _current.log_epoch(self._phase, epoch, metrics)


class TrackingHook:
    """Opens and ends runs around nodes, and logs datasets with `metadata: {mlflow: KIND}` in the catalog.

    Kinds: `artifact` uploads the file or folder, `checkpoint` and `verifier` do so where tracking.yml asks
    for it, `figure` uploads a page that draws it, `metrics` also logs the numbers, `report` also uploads to
    the experiment's run.
    """

    def __init__(self) -> None:
        self._settings: TrackingSettings | None = None
        self._store: Store | None = None
        self._parameters: Parameters
        self._logged_parameters: dict[str, Any] = {}
        self._compare_parameters: dict[str, Any] = {}
        self._env: str | None = None
        self._project = Path()
        self._lock = threading.RLock()  # for runners with threads
        self._log: RunLog | None = None
        self._pipeline = Pipeline([])
        self._catalog: CatalogProtocol = DataCatalog()
        self._experiments: list[TrackedRun] = []
        self._trained: TrackedRun | None = None  # the experiment that this pipeline's phases belong to
        self._stages: dict[str, _Stage] = {}
        self._restore_termination: Callable[[], None] = lambda: None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._project = Path(context.project_path)
        settings = TrackingSettings.parse(context.config_loader["tracking"], "tracking.yml")
        on_this_process = int(os.environ.get("RANK", 0)) == 0
        tracked = settings.enabled and on_this_process
        self._settings = settings
        self._store = settings.store(self._project) if tracked else None
        self._parameters = parameters_of(context)
        parameters = context.config_loader["parameters"]
        self._compare_parameters = {name: parameters[name] for name in COMPARE_PARAMETERS}
        self._logged_parameters = {name: parameters[name] for name in parameters if name != COMPARE}
        self._env = context.env or getattr(context.config_loader, "default_run_env", None)

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._close("KILLED")  # runs left open by an interrupted run of this process
        if self._store is None or not any(stage_of(node) for node in pipeline.nodes):
            return
        global _current
        _current = self
        _refuse_unknown_kinds(pipeline, catalog)
        self._log = RunLog(self._store)
        self._pipeline, self._catalog = pipeline, catalog
        atexit.register(self._close, "KILLED")  # no hook is called after Ctrl-C and sys.exit
        self._restore_termination = handle_termination(exit_on_signal)

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        name = stage_of(node)
        with self._lock:
            if self._log is None or name is None:
                return
            if name not in self._stages:
                if name == EVALUATION:
                    self._stages[name] = self._planned_evaluation(self._log)
                elif name == COMPARE:
                    self._stages[name] = self._planned_comparison(self._log)
                elif trains(node):
                    self._stages[name] = self._planned_phase(self._log, name, node)
            if name in self._stages:
                self._note_tables(self._stages[name], inputs)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        stage = self._stages.get(stage_of(node) or "")
        if stage is not None:
            stage.run.touch()
            if trains(node):
                stage.trained_at = stage.run.last_active

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        name = stage_of(node)
        if self._log is None or name is None:
            return
        dataset = self._catalog[dataset_name]
        kind = _kind_of(dataset)
        stage = self._stages.get(name)
        if stage is None:
            if kind is not None:
                logger.info("%s was made without its phase: MLflow keeps the earlier one", dataset_name)
            return
        if dataset_name == learning_curve_of(name):
            _log_curve(stage.run, data.to_dict("records"))
        if self._settings is not None and self._settings.logs(kind):
            path, package = Path(dataset._get_load_path()), self._parameters.package
            if kind == VERIFIER:
                stage.run.log_verifier(path, package.registered_model, package.alias)
            elif kind == FIGURE:
                stage.run.log_figure(data, dataset_name.split(".")[-1])
            else:
                stage.run.log_file(path, dataset_name.split(".")[-1])
        if kind == REPORT and stage.run.parent is not None:
            stage.run.parent.log_file(Path(dataset._get_load_path()), once=True)
        if kind == METRICS:
            self._log_error_rates(stage, data, dataset)
        if dataset_name == RATES:
            stage.run.log_metrics("error rates", {0: dict(compared_numbers(data))})
        if dataset_name in SETS:
            self._note_tables(stage, {dataset_name: data})
        if stage.run.opened:
            self._describe(stage)
        if dataset_name in MARKED:
            write_json(
                beside(self._catalog, dataset_name),
                stage.run.ids | {"model": stage.model and self._portable(stage.model)},
            )
        if dataset_name in stage.unsaved:
            self._end_phase(stage, dataset_name)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._close("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        self._close("FAILED", error)

    def begin(self, name: str, curve: Sequence[Mapping[str, Any]]) -> None:
        """Open a stage's run, as `begin` of this module."""
        if (stage := self._stages.get(name)) is not None:
            stage.run.open()
            self._describe(stage)
            _log_curve(stage.run, curve)
            _remember(stage)
            seconds = None if self._settings is None else self._settings.system_metrics_seconds
            if stage.workspace is not None and seconds is not None:
                stage.sampler = SystemMetricsSampler(stage.run, seconds)
                stage.sampler.start()

    def log_epoch(self, phase: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics, as `PhaseTracker`."""
        if (stage := self._stages.get(phase)) is not None:
            named = {epoch_metric_name(name): value for name, value in metrics.items()}
            stage.run.log_metrics(f"epoch {epoch}", {epoch: named})
            _remember(stage)

    def ids_of(self, phase: str) -> Ids:
        """Ids of a phase's run, as `PhaseTracker`."""
        return self._stages[phase].run.ids if phase in self._stages else {}

    def _planned_phase(self, log: RunLog, phase: str, node: Node) -> _Stage:
        """Run of a phase: its own where it is resumed, else a new one."""
        workspace = workspace_of(phase, self._catalog)
        left = read_ids(workspace / IDS_FILE)
        resumed = resumes(phase, self._catalog, self._parameters)
        if self._trained is None:
            known = left.get("experiment") if resumed else None
            starts = [name for name in node.inputs if name.endswith(f".{CHECKPOINT}")]
            settings = self._parameters.phases[phase]
            if known is None and starts and settings.start is None:
                start = best_of(self._catalog, starts[0], settings.choose_top)
                known = ids_of_model(start).get("experiment")
            name = f"{self._parameters.recipe} seed {self._parameters.seed}"
            self._trained = self._experiment(log, name, known)
        if not resumed:
            # The run first: the experiment lasts as long as it.
            for lost in (left.get("run"), left.get("experiment")):
                if lost not in (None, self._trained.ids["run"]):
                    TrackedRun(log, phase, {}, {}, known=lost).mark_killed()
        logged = self._logged_parameters
        parameters = logged[phase] | {name: logged[name] for name in PHASE_PARAMETERS}
        run = TrackedRun(
            log,
            phase,
            self._tags(phase),
            dict(_flatten(parameters)),
            parent=self._trained,
            known=left.get("run") if resumed else None,
        )
        return _Stage(run, resumed, workspace, unsaved=set(node.outputs))

    def _planned_evaluation(self, log: RunLog) -> _Stage:
        """Run of the evaluation, under the experiment that trained the model, or under a new one."""
        parameters = {name: self._logged_parameters[name] for name in EVALUATION_PARAMETERS}
        model, known, trained_here = self._measured()
        if self._trained is not None and (trained_here or known == self._trained.ids["run"] is not None):
            experiment = self._trained
        else:
            imports = f"params:{IMPORT}" in self._pipeline.inputs()
            name = self._parameters.import_embeddings.name if imports else EVALUATION
            name = model.name if model else name
            experiment = self._experiment(log, name, known, parameters, joined=True)
            if known is None and not imports:
                logger.info(
                    "no tracked training of %s: its evaluation gets an experiment run of its own",
                    model or "the model, whose name was not saved",
                )
        tags = self._tags(EVALUATION) | ({"model": str(model)} if model else {})
        run = TrackedRun(log, EVALUATION, tags, dict(_flatten(parameters)), parent=experiment)
        return _Stage(run, model=model)

    def _planned_comparison(self, log: RunLog) -> _Stage:
        """Run of a comparison, whose trainings have experiment runs of their own, with its tag."""
        of, settings = self._parameters.compare, self._compare_parameters
        seeds = ", ".join(map(str, of.seeds))
        name = f"comparison of {len(of.only or of.systems)} systems, seeds {seeds}"
        workspace = self._portable(Path(self._catalog[f"{COMPARE}.workspace"]._filepath))
        run = self._experiment(log, name, None, settings, tags={COMPARISON_TAG: workspace})
        return _Stage(run)

    def _experiment(
        self,
        log: RunLog,
        name: str,
        known: str | None,
        parameters: Mapping[str, Any] | None = None,
        joined: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """Parent run of an experiment's phases and evaluations, or run of a comparison."""
        parameters = self._logged_parameters if parameters is None else parameters
        own = {} if self._settings is None else self._settings.tags
        run = TrackedRun(
            log,
            name,
            {**self._tags("experiment"), **own, **(tags or {})},
            dict(_flatten(parameters)),
            file={"parameters.yml": parameters},
            known=known,
            joined=joined,
        )
        self._experiments.append(run)
        return run

    def _measured(self) -> tuple[Path | None, str | None, bool]:
        """Folder of the evaluated model, run of its experiment, and whether this pipeline trains it."""
        outputs, inputs = self._pipeline.all_outputs(), self._pipeline.inputs()
        embed = self._parameters.embed
        if f"params:{IMPORT}" not in inputs and not outputs.isdisjoint((EMBEDDINGS, *SETS)):
            model = model_to_evaluate(self._catalog, embed)
            trained_here = embed.model is None and LAST_CHECKPOINT in outputs
            return model, ids_of_model(model).get("experiment"), trained_here
        for name in MARKED:
            if name in inputs:
                left = read_ids(beside(self._catalog, name))
                named = self._project / left["model"] if left.get("model") else None
                return named, left.get("experiment") or ids_of_model(named).get("experiment"), False
        return None, None, False

    def _portable(self, path: Path) -> str:
        """Path, relative to the project where it is inside, so that the project can be moved."""
        inside = path.is_relative_to(self._project)
        return str(path.relative_to(self._project) if inside else path.absolute())

    def _tags(self, stage: str) -> dict[str, str]:
        return {"stage": stage} | ({"env": self._env} if self._env else {})

    def _note_tables(self, stage: _Stage, inputs: Mapping[str, Any]) -> None:
        """Note the data sets among the inputs of a node that the stage does not know yet."""
        try:
            sources = {name: self._source(name) for name in inputs if name in self._catalog}
            for table in tracked_tables(inputs, sources, known=stage.tables):
                stage.tables[table.name] = table
                stage.unlogged.append(table)
        except Exception as error:  # a table of another form stops the node that it is for, if any
            logger.warning(
                "MLflow lacks data sets of '%s': %s: %s", stage.run.name, type(error).__name__, error
            )

    def _source(self, dataset_name: str) -> str:
        """Path of a dataset's file, or the dataset's name."""
        dataset = self._catalog[dataset_name]
        path = getattr(dataset, "_get_load_path", None)
        return dataset_name if path is None else self._portable(Path(path()))

    def _describe(self, stage: _Stage) -> None:
        """Log the code, versions, machine and data sets of an open run, and of its experiment."""
        runs = [run for run in (stage.run, stage.run.parent) if run is not None]
        if not stage.described:
            stage.described = True
            tags = source_tags(self._project) | machine_tags(self._parameters.device)
            for run in runs:
                if not run.joined:
                    run.set_tags(tags)
        tables, stage.unlogged = stage.unlogged, []
        for run in runs:
            run.log_inputs(tables)

    def _log_error_rates(self, stage: _Stage, metrics: Mapping[str, Any], dataset: Any) -> None:
        """Log error rates to the evaluation's run, and the first of each trial list to the experiment's."""
        file, folder = Path(dataset._get_load_path()), Path(dataset._filepath).parent
        places = {"model": stage.model, "error rates": file, "tables, figures and report": folder}
        note = description(metrics, {what: self._portable(path) for what, path in places.items() if path})
        stage.run.log_metrics("error rates", {0: dict(numbers(metrics))})
        address = f"{self._portable(file.parents[3])}@{file.parent.name}"
        stage.run.set_tags({NOTE_TAG: note, ADDRESS_TAG: address})
        if stage.run.parent is not None:
            stage.run.parent.log_headlines(headlines(metrics), first_rate(metrics), note)

    def _end_phase(self, stage: _Stage, saved: str) -> None:
        """End the run of a phase once its last output is saved."""
        with self._lock:
            stage.unsaved.remove(saved)
            if stage.unsaved or stage.workspace is None:
                return
        if stage.sampler is not None:
            stage.sampler.stop()
        stage.run.end("FINISHED", at=stage.trained_at)
        (stage.workspace / IDS_FILE).unlink(missing_ok=True)

    def _close(self, status: str, error: Exception | None = None) -> None:
        """End all runs, and report entries that could not be logged."""
        with self._lock:
            log, self._log = self._log, None
            if log is None:
                return
            message = None if error is None else f"{type(error).__name__}: {error}"
            for name, stage in self._stages.items():
                if stage.sampler is not None:
                    stage.sampler.stop()
                if not stage.run.opened and (error is None or _refuses(error, name, stage.resumed)):
                    stage.run.mark_killed()  # an earlier run of it, if there was one
                    continue
                stage.run.open()
                stage.run.end(status, message, stage.run.last_active if status == "FINISHED" else None)
            for run in self._experiments:
                ends = [stage.run.ended_at for stage in self._stages.values() if stage.run.parent is run]
                run.end(status, message, max(ends, default=0) if status == "FINISHED" else None)
            log.close()
            _announce(self._experiments, log.store)
            self._stages, self._experiments, self._trained = {}, [], None
            global _current
            _current = None
            atexit.unregister(self._close)
            self._restore_termination()


def _announce(experiments: Sequence[TrackedRun], store: Store) -> None:
    """Log the addresses of the runs of experiments, and how to serve them."""
    for run in experiments:
        if run.page is not None:
            command = store.server_command()
            serve = f"\n  server    {command}" if command else ""
            logger.info("MLflow has '%s'\n  run       %s\n  all runs  %s%s", run.name, *run.page, serve)


def _kind_of(dataset: Any) -> str | None:
    """Kind of logging of a dataset, from the metadata of its catalog entry."""
    return (getattr(dataset, "metadata", None) or {}).get("mlflow")


def _refuse_unknown_kinds(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    for name in sorted(pipeline.all_outputs()):
        kind = _kind_of(catalog.get(name))
        if kind not in (None, *KINDS):
            raise DataError(f"catalog: {name}: metadata.mlflow is {kind!r}: use one of {', '.join(KINDS)}")


def _refuses(error: BaseException | None, stage: str, resumed: bool) -> bool:
    """Whether an error has refused a stage before its start, which then leaves no trace in MLflow."""
    kind = UserError if resumed or stage == EVALUATION else ParameterError
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__
    return False


def _log_curve(run: TrackedRun, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log the points of a learning curve that the run does not have."""
    metrics: dict[int, dict[str, float]] = {}
    for row in rows:
        metrics.setdefault(int(row["epoch"]), {})[epoch_metric_name(str(row["metric"]))] = float(row["value"])
    if metrics:
        run.log_metrics("learning curve", metrics)


def _remember(stage: _Stage) -> None:
    """Write the run ids of a phase to its workspace once they are known, for resuming."""
    if stage.workspace is not None and stage.run.ids["run"] and stage.run.ids != stage.remembered:
        write_json(stage.workspace / IDS_FILE, stage.run.ids)
        stage.remembered = dict(stage.run.ids)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            numeric = isinstance(value, (int, float, str))
            yield f"{prefix}{name}", value if numeric else json.dumps(value)
