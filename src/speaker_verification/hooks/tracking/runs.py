"""MLflow runs whose failures stop nothing, addressed by their ids, so that threads share them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaker_verification.hooks.tracking.log import Entry, RunLog
from speaker_verification.hooks.tracking.results import (
    MAX_HEADLINES,
    headline_list,
    view_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from plotly.graph_objects import Figure

    from speaker_verification.hooks.tracking.inputs import TrackedTable

logger = logging.getLogger(__name__)

Send = Callable[["MlflowClient", str], None]
Ids = dict[str, str | None]

PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
ADDRESS_TAG = "evaluation"  # of an evaluation's run: DATA_ROOT@VERSION, which `compare_runs` takes
COMPARISON_TAG = "comparison"  # of a comparison's run and of all that it compares: the folder of their data
MAX_VALUE = 6000  # characters; MLflow refuses longer parameters
MAX_TAG = 8000  # characters, likewise of tags


class TrackedRun:
    """MLflow run, created when it is opened, or an existing one that is reopened.

    Args:
        log: queue of its store.
        name: name of a new run.
        tags: tags of a new run.
        parameters: parameters of a new run.
        file: plain values to upload to a new run, by file name.
        parent: parent run.
        known: id of an existing run.
        joined: whether status and duration of an existing run stay as they are.

    Attributes:
        ids: MLflow's ids of the run and of its experiment's run; None until they are created.
        joined: whether the run was there, and keeps its status.
    """

    def __init__(
        self,
        log: RunLog,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
        *,
        file: Mapping[str, Any] | None = None,
        parent: TrackedRun | None = None,
        known: str | None = None,
        joined: bool = False,
    ) -> None:
        self.name = name
        self.ids: Ids = {"experiment": None if parent is None else parent.ids["run"], "run": known}
        self.parent = parent
        self.opened = False
        self.ended = False
        self.ended_at = 0
        self.started = self.last_active = _now()
        self._log = log
        self._tags = dict(tags)
        self._parameters = dict(parameters)
        self._file = dict(file or {})
        self._is_new = known is None
        self.joined = joined and not self._is_new
        self._experiment: str | None = None
        self._ready = False
        self._known_steps: dict[str, set[int]] | None = {} if self._is_new else None

    @property
    def page(self) -> tuple[str, str] | None:
        """Addresses of the run and of the list that it is in; None where the store has not made it."""
        store, run_id = self._log.store, self.ids["run"]
        if run_id is None or self._experiment is None:
            return None
        return store.page(self._experiment, run_id), store.page(self._experiment)

    def open(self) -> None:
        """Create the run, or set its status to running."""
        with self._log.lock:
            if self.opened:
                return
            self.opened = True
            if self.parent is not None:
                self.parent.open()
            self._send("start", lambda client, run_id: None)
            if self._is_new:
                self._send("parameters", self._log_parameters)
                for name, values in self._file.items():
                    self._log_values(name, values)

    def touch(self) -> None:
        """Record that the run is still active."""
        self.last_active = _now()

    def log_metrics(self, what: str, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Log metrics by step; steps that the run already has of a metric are kept."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Metric

            known = self._steps(client, run_id)
            points = [
                Metric(key=name, value=float(value), timestamp=_now(), step=step)
                for step, values in metrics.items()
                for name, value in ((_allowed(name), value) for name, value in values.items())
                if step not in known.get(name, ())
            ]
            if points:
                client.log_batch(run_id, metrics=points)
            for point in points:
                known.setdefault(point.key, set()).add(point.step)

        self._send_open(what, send)

    def log_headlines(self, figures: Mapping[str, Mapping[str, float]], suffix: str, note: str) -> None:
        """Log the equal error rates of trial lists that the run does not have yet.

        The first of them name and describe the run; lists with other values are reported, and those that the
        run has no room for are left to the evaluation's own run.

        Args:
            figures: metrics by trial list.
            suffix: addition to the run's name.
            note: description of the run.
        """

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Metric

            run = client.get_run(run_id)
            there: dict[str, dict[str, float]] = {}
            for name, value in run.data.metrics.items():
                there.setdefault(headline_list(name) or "", {})[name] = value
            room = MAX_HEADLINES - sum(len(values) for group, values in there.items() if group)
            points: list[Metric] = []
            kept: list[str] = []
            for trial_list, values in figures.items():
                named = {_allowed(name): value for name, value in values.items()}
                group = there.get(_allowed(trial_list))
                if group is None and len(points) + len(named) <= room:
                    points += [Metric(key, value, _now(), 0) for key, value in named.items()]
                elif group is not None and group != named:
                    kept.append(trial_list)
            if not any(there) and suffix:
                if not str(run.info.run_name).endswith(suffix):
                    self.name = f"{run.info.run_name}: {suffix}"
                    client.update_run(run_id, name=self.name)
                client.set_tag(run_id, NOTE_TAG, note[:MAX_TAG])
            if points:
                client.log_batch(run_id, metrics=points)
                self._show(client, run.info.experiment_id, [point.key for point in points])
            if kept:
                logger.info(
                    "run '%s' keeps its first error rates on %s: the evaluation's own run has the new ones",
                    self.name,
                    ", ".join(kept),
                )

        self._send_open("error rates", send)

    def log_sample(self, values: Mapping[str, float]) -> None:
        """Log a sample after those that the run has; it is dropped where the store is away."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Metric

            known = self._steps(client, run_id)
            step = 1 + max((max(known[name]) for name in values if known.get(name)), default=-1)
            points = [Metric(name, value, _now(), step) for name, value in values.items()]
            client.log_batch(run_id, metrics=points)
            for name in values:
                known.setdefault(name, set()).add(step)

        if values and self.opened and not self.ended:
            self._send("system metrics", send, optional=True)

    def log_inputs(self, tables: Sequence[TrackedTable]) -> None:
        """Log the tables that the run was made with, as data sets; those that it has stay."""

        def send(client: MlflowClient, run_id: str) -> None:
            client.log_inputs(run_id, datasets=[table.entity() for table in tables])

        if tables:
            self._send_open("data sets", send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, over earlier values."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(name, value[:MAX_TAG]) for name, value in tags.items()])

        if tags:
            self._send_open("tags", send)

    def log_verifier(self, verifier: Path, registered: str | None, alias: str | None) -> None:
        """Log a verifier's folder as a model, and register it where a name is given."""
        made: dict[str, str] = {}  # kept from one try to the next

        def send(client: MlflowClient, run_id: str) -> None:
            from speaker_verification.pipelines.package.mlflow_model import log_verifier

            log_verifier(client, run_id, verifier, registered, alias, made)
            if self.parent is not None:
                self.parent.show_model(client, made["model"])

        self._send_open("verifier", send, uploads=True)

    def show_model(self, client: MlflowClient, model_id: str) -> None:
        """Show a model of an evaluation as the run's own, if it has none yet."""
        from mlflow.entities import LoggedModelOutput

        run_id = self.id(client)
        shown = client.get_run(run_id).outputs
        if shown is None or not shown.model_outputs:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def log_file(self, path: Path, folder: str | None = None, *, once: bool = False) -> None:
        """Upload a file, or a folder under a given name.

        Args:
            path: file or folder.
            folder: name of the folder.
            once: whether a file of the same name stays.
        """

        def send(client: MlflowClient, run_id: str) -> None:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), folder)
            elif not once or path.name not in {file.path for file in client.list_artifacts(run_id)}:
                client.log_artifact(run_id, str(path))

        self._send_open(folder if folder and path.is_dir() else path.name, send, uploads=True)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Upload a figure as a page that MLflow shows, which needs no other file and no network."""
        file = f"{name}.html"

        def send(client: MlflowClient, run_id: str) -> None:
            from speaker_verification.reporting.page import render

            page = render("figure_page.html.j2", title=f"{name.capitalize()} of {self.name}", figure=figure)
            client.log_text(run_id, page, file)

        self._send_open(file, send, uploads=True)

    def end(self, status: str, error: str | None = None, at: int | None = None) -> None:
        """Set the final status of an open run.

        Args:
            status: FINISHED, FAILED or KILLED.
            error: message of the error, logged as a tag.
            at: end of the run in ms since 1970; None for now.
        """
        if not self.opened or self.ended:
            return
        self.ended = True
        self.ended_at = end_time = at or _now()

        def send(client: MlflowClient, run_id: str) -> None:
            if self.joined:
                self._extend(client, run_id, end_time)
                return
            if error is not None:
                client.set_tag(run_id, "error", error[:MAX_VALUE])
            client.set_terminated(run_id, status, end_time)

        self._send("end", send)

    def mark_killed(self) -> None:
        """Set the status of an existing run that never ended to killed."""

        run_id = self.ids["run"]

        def send(client: MlflowClient) -> None:
            run = None if run_id is None else _found(client, run_id)
            if run is not None and run.info.lifecycle_stage == "active" and run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED", _last_active(client, run))

        if run_id is not None and not self.opened:
            self._log.send(Entry(self, "end", send))

    def id(self, client: MlflowClient) -> str:
        """MLflow's id of the run, which is created if needed."""
        if not self._ready:
            self._make_ready(client)
        run_id = self.ids["run"]
        assert run_id is not None
        return run_id

    def doubt(self) -> None:
        """Query the logged steps again before logging more: a failed entry may have arrived."""
        self._known_steps = None

    def revive(self, client: MlflowClient) -> bool:
        """Restore or replace the run and its parent if they were deleted while in use."""
        revived = self.parent is not None and self.parent.revive(client)
        run_id = self.ids["run"]
        if self._ready and run_id is not None:
            run = _found(client, run_id)
            if run is None or run.info.lifecycle_stage != "active":
                self._ready = False
                revived = True
        return revived

    def _make_ready(self, client: MlflowClient) -> None:
        parent_id = None if self.parent is None else self.parent.id(client)
        run_id = self.ids["run"]
        run = None if run_id is None else _found(client, run_id)
        if run is not None and run.info.lifecycle_stage != "active":
            _restore(client, run)
        if run is None:
            run = self._make(client, parent_id)
            if run_id is not None:
                logger.warning(
                    "MLflow's run %s is not at %s: '%s' continues in the new run %s",
                    run_id,
                    self._log.store,
                    self.name,
                    run.info.run_id,
                )
                self._log_parameters(client, run.info.run_id)
        elif not self.joined and not self.ended:
            client.update_run(run.info.run_id, status="RUNNING")
            if "error" in run.data.tags:
                client.delete_tag(run.info.run_id, "error")
            if parent_id is not None and run.data.tags.get(PARENT_TAG) != parent_id:
                client.set_tag(run.info.run_id, PARENT_TAG, parent_id)
        self.name = run.info.run_name
        self.ids |= {"run": run.info.run_id, "experiment": parent_id or run.info.run_id}
        self._experiment = run.info.experiment_id
        self._ready = True

    def _make(self, client: MlflowClient, parent_id: str | None) -> Run:
        from mlflow.tracking.context.registry import resolve_tags

        tags = self._tags if parent_id is None else {**self._tags, PARENT_TAG: parent_id}
        within = self.parent._experiment if self.parent is not None else None
        experiment = within or self._log.experiment_id(client)
        self.joined = False
        self._known_steps = {}
        return client.create_run(experiment, self.started, resolve_tags(tags), self.name)

    def _extend(self, client: MlflowClient, run_id: str, end_time: int) -> None:
        """Have a run that has ended last until a later evaluation of it has."""
        info = client.get_run(run_id).info
        if info.end_time is not None and info.end_time < end_time:
            client.set_terminated(run_id, info.status, end_time)

    def _show(self, client: MlflowClient, experiment_id: str, metrics: Sequence[str]) -> None:
        """Show metrics as columns of the view of the experiment that addresses name."""
        tags = view_tags(client.get_experiment(experiment_id).tags, metrics)
        for tag, value in tags.items():
            client.set_experiment_tag(experiment_id, tag, value)

    def _log_values(self, file: str, values: Mapping[str, Any]) -> None:
        self._send(file, lambda client, run_id: client.log_dict(run_id, dict(values), file), uploads=True)

    def _log_parameters(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = [
            Param(_allowed(name), str(value)[:MAX_VALUE]) for name, value in self._parameters.items()
        ]
        client.log_batch(run_id, params=parameters)

    def _steps(self, client: MlflowClient, run_id: str) -> dict[str, set[int]]:
        """Logged steps of the run by metric."""
        if self._known_steps is None:
            metrics = client.get_run(run_id).data.metrics
            history = {name: client.get_metric_history(run_id, name) for name in metrics}
            self._known_steps = {name: {point.step for point in points} for name, points in history.items()}
        return self._known_steps

    def _send_open(self, what: str, send: Send, uploads: bool = False) -> None:
        self.open()
        self.touch()
        self._send(what, send, uploads)

    def _send(self, what: str, send: Send, uploads: bool = False, optional: bool = False) -> None:
        self._log.send(Entry(self, what, lambda client: send(client, self.id(client)), uploads, optional))


def _found(client: MlflowClient, run_id: str) -> Run | None:
    """Run by its id, deleted or not; None where it is unknown."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _last_active(client: MlflowClient, run: Run) -> int:
    """Time in ms since 1970 of the last that is known of a run: a metric, or the end of a run below it."""
    run_id, experiment = run.info.run_id, run.info.experiment_id
    times = [run.info.start_time]
    for name in run.data.metrics:
        times += [point.timestamp for point in client.get_metric_history(run_id, name)]
    for child in client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{run_id}'"):
        times += [child.info.start_time, child.info.end_time or 0]
    return max(times)


def _restore(client: MlflowClient, run: Run) -> None:
    """Restore a deleted run, or its deleted experiment."""
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
        logger.warning("MLflow's experiment '%s' had been deleted: restored", experiment.name)
    else:
        client.restore_run(run.info.run_id)
        logger.warning(
            "MLflow's run '%s' (%s) had been deleted: restored", run.info.run_name, run.info.run_id
        )


def _allowed(name: str) -> str:
    """Name of a metric or parameter without characters that MLflow refuses."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def _now() -> int:
    return time.time_ns() // 1_000_000
