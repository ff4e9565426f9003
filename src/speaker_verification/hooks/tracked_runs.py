"""MLflow runs whose failures stop nothing: entries are queued, retried, and reported if they stay missing.

Calls address a run by its id, so that threads share runs, and none raises. A server that does not answer is
retried with back-off; deleted runs and experiments are restored, and replaced where that is impossible.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from speaker_verification.common.atomic import atomic_write

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

Send = Callable[["MlflowClient", str], None]
Ids = dict[str, str | None]

PARENT_TAG = "mlflow.parentRunId"
ARTIFACTS_FOLDER = "mlartifacts"
MAX_VALUE = 6000  # characters; MLflow refuses longer parameters
MAX_QUEUED = 10_000  # entries kept while the server is unreachable
NUM_NAMED = 8  # missing entries of a run that messages name
# Instead of MLflow's seven retries of up to two minutes each: failed entries are retried later.
IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
IMPATIENT_UPLOADS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CONNECTION_SECONDS = 5.0
MIN_PAUSE = 5.0  # s between two tries
PAUSE_FACTOR = 20.0  # pause after a slow try, relative to its duration
LAST_PAUSE = 1.0  # s before the last try of all
# Error codes of entries that MLflow would never accept.
REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


@dataclass(frozen=True)
class Store:
    """Address of an MLflow server or database, and the experiment in it.

    Attributes:
        uri: tracking URI.
        experiment: name of the experiment, created if it does not exist.
        artifacts: URI of its artifacts; None for the server's default.
        database: SQLite file of the URI, if it is one.
        chosen_artifacts: whether the user has set the location of the artifacts.
    """

    uri: str
    experiment: str
    artifacts: str | None = None
    database: Path | None = None
    chosen_artifacts: bool = False

    def __str__(self) -> str:
        """The address without its password."""
        return re.sub(r"//[^/@]*@", "//", self.uri)


@dataclass
class _Entry:
    """Entry to log to a run."""

    run: TrackedRun
    what: str
    send: Callable[[MlflowClient], None]
    uploads: bool = False


class RunLog:
    """Queue of entries for one MLflow store, sent in order and retried.

    Args:
        store: address of the store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = threading.RLock()
        self._queue: deque[_Entry] = deque()
        self._missing: deque[_Entry] = deque(maxlen=MAX_QUEUED)
        self._unreachable = False
        self._next_try = 0.0
        self._known_client: MlflowClient | None = None
        self._experiment: str | None = None

    def send(self, entry: _Entry) -> None:
        """Log an entry after the queued ones."""
        with self.lock:
            self._queue.append(entry)
            if len(self._queue) > MAX_QUEUED:
                self._missing.append(self._queue.popleft())
            if time.monotonic() >= self._next_try:
                self._send_queue()

    def close(self) -> None:
        """Send the queue a last time, and report missing entries."""
        with self.lock:
            started = time.monotonic()
            if self._queue:
                self._send_queue()
            if self._queue and time.monotonic() < started + LAST_PAUSE:  # what fails slowly has had its time
                time.sleep(LAST_PAUSE)
                self._send_queue()
            missing = [*self._missing, *self._queue]
            self._queue.clear()
            self._missing.clear()
        if missing:
            logger.warning("MLflow at %s lacks: %s", self.store, _named(missing))

    def experiment_id(self, client: MlflowClient) -> str:
        """Id of the experiment, which is created or restored if needed."""
        if self._experiment is None:
            self._experiment = self._find_experiment(client)
        return self._experiment

    def _find_experiment(self, client: MlflowClient) -> str:
        store = self.store
        found = client.get_experiment_by_name(store.experiment)
        if found is None:
            return client.create_experiment(store.experiment, store.artifacts)
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
            logger.warning("MLflow's experiment '%s' had been deleted: restored", store.experiment)
        if store.artifacts is not None and _place(found.artifact_location) != _place(store.artifacts):
            moved = store.database and not store.chosen_artifacts
            if moved and Path(_place(found.artifact_location)).name == ARTIFACTS_FOLDER:
                _relocate_artifacts(store, found.artifact_location)
            elif store.chosen_artifacts:
                logger.warning(
                    "MLflow's experiment '%s' keeps its artifacts in %s: name another experiment in "
                    "tracking.yml to have them elsewhere",
                    store.experiment,
                    found.artifact_location,
                )
        return str(found.experiment_id)

    def _send_queue(self) -> None:
        """Send entries until one fails; a failed upload holds up other uploads only."""
        entries, kept = self._queue, deque[_Entry]()
        failures: dict[bool, Exception] = {}  # by whether it was an upload
        started = time.monotonic()
        try:
            while entries and False not in failures:
                entry = entries[0]
                failure = None if entry.uploads in failures else self._failure_of(entry)
                if failure is not None:
                    failures[entry.uploads] = failure
                if entry.uploads in failures:
                    kept.append(entry)
                entries.popleft()
        finally:  # a signal may end the process here
            self._queue = kept + entries
        self._report(next(iter(failures.values()), None), time.monotonic() - started)

    def _failure_of(self, entry: _Entry) -> Exception | None:
        """Send an entry; the error after which it must be retried, None after success or a refusal."""
        sent = False
        # No error of MLflow, its database or its server may stop the tracked run.
        try:
            with _environment(IMPATIENT_UPLOADS if entry.uploads else IMPATIENCE):
                self._send(entry)
            sent = True
        except Exception as error:
            if not _is_refusal(error):
                return error
            sent = True
            if not self._missing:
                logger.warning("MLflow at %s refuses %s: %s", self.store, _named([entry]), _line(error))
            self._missing.append(entry)
        finally:
            if not sent:
                entry.run.doubt()
        return None

    def _send(self, entry: _Entry) -> None:
        if self._unreachable or self._known_client is None:
            _refuse_absent(self.store.uri)
        client = self._client()
        try:
            entry.send(client)
        except Exception as error:
            if not _is_refusal(error):
                raise
            self._experiment = None  # it may have been deleted with all its runs
            if not entry.run.revive(client):
                raise
            entry.send(client)

    def _client(self) -> MlflowClient:
        if self._known_client is None:
            from mlflow import MlflowClient

            if self.store.database is not None and not self.store.database.exists():
                _create_database(self.store.database)
            self._known_client = MlflowClient(tracking_uri=self.store.uri)
        return self._known_client

    def _report(self, failure: Exception | None, seconds: float) -> None:
        if failure is None:
            if self._unreachable:
                logger.info("MLflow at %s is reachable again: queued entries are logged", self.store)
            self._unreachable = False
            self._next_try = 0.0
            return
        if not self._unreachable:
            logger.warning(
                "MLflow at %s is unreachable (%s): the run continues, and queued entries are logged later",
                self.store,
                _line(failure).replace(self.store.uri, str(self.store)),
            )
        self._unreachable = True
        self._next_try = time.monotonic() + max(MIN_PAUSE, PAUSE_FACTOR * seconds)


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
        self.started = self.last_active = _now()
        self._log = log
        self._tags = dict(tags)
        self._parameters = dict(parameters)
        self._file = dict(file or {})
        self._is_new = known is None
        self._joined = joined and not self._is_new
        self._experiment: str | None = None
        self._ready = False
        self._known_steps: dict[str, set[int]] | None = {} if self._is_new else None

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

    def log_first_metrics(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Log groups of metrics that the run does not have yet; groups with other values are reported."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Metric

            there = client.get_run(run_id).data.metrics
            points: list[Metric] = []
            kept: list[str] = []
            for group, values in figures.items():
                named = {_allowed(f"{group}.{name}"): value for name, value in values.items()}
                logged = {
                    name: value for name, value in there.items() if name.startswith(_allowed(f"{group}."))
                }
                if not logged:
                    points += [Metric(key, value, _now(), 0) for key, value in named.items()]
                elif logged != named:
                    kept.append(group)
            if points:
                client.log_batch(run_id, metrics=points)
            if kept:
                logger.info(
                    "run '%s' keeps its first error rates on %s: the evaluation's own run has the new ones",
                    self.name,
                    ", ".join(kept),
                )

        self._send_open("error rates", send)

    def log_verifier(self, verifier: Path, registered: str | None, alias: str | None) -> None:
        """Log a verifier's folder as a model, and register it where a name is given."""
        made: dict[str, str] = {}  # kept from one try to the next

        def send(client: MlflowClient, run_id: str) -> None:
            from speaker_verification.pipelines.package.mlflow_model import log_verifier

            log_verifier(client, run_id, verifier, registered, alias, made)

        self._send_open("verifier", send, uploads=True)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder under a given name."""

        def send(client: MlflowClient, run_id: str) -> None:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), folder)
            else:
                client.log_artifact(run_id, str(path))

        self._send_open(folder if folder and path.is_dir() else path.name, send, uploads=True)

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
        end_time = at or _now()

        def send(client: MlflowClient, run_id: str) -> None:
            if self._joined:
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
                client.set_terminated(run.info.run_id, "KILLED")

        if run_id is not None and not self.opened:
            self._log.send(_Entry(self, "end", send))

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
        elif not self._joined and not self.ended:
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
        self._joined = False
        self._known_steps = {}
        return client.create_run(experiment, self.started, resolve_tags(tags), self.name)

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

    def _send(self, what: str, send: Send, uploads: bool = False) -> None:
        self._log.send(_Entry(self, what, lambda client: send(client, self.id(client)), uploads))


def _create_database(database: Path) -> None:
    """Write an SQLite file with MLflow's tables at once: one that a kill leaves with some, MLflow refuses."""
    from mlflow import MlflowClient

    with TemporaryDirectory() as folder:
        made = Path(folder, "mlflow.db")
        MlflowClient(tracking_uri=sqlite_uri(made))
        if not database.exists():  # another run may have made it meanwhile
            with atomic_write(database) as part:
                shutil.copyfile(made, part)


def sqlite_uri(database: Path) -> str:
    """Tracking URI of an SQLite file, with any characters in its path."""
    escaped = str(database)
    for character in "%?#":
        escaped = escaped.replace(character, f"%{ord(character):02X}")
    if escaped == str(database):
        return f"sqlite:///{database}"
    from sqlalchemy import make_url

    # With its driver named, MLflow makes no folder of the escaped name.
    uri = f"sqlite+pysqlite:///{escaped}"
    if make_url(uri).database == str(database):
        return uri
    return f"sqlite+pysqlite:///file:{escaped}?uri=true"  # where SQLAlchemy leaves escapes to SQLite


def _found(client: MlflowClient, run_id: str) -> Run | None:
    """Run by its id, deleted or not; None where it is unknown."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


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


def _relocate_artifacts(store: Store, before: str) -> None:
    """Point the experiments of a moved database to the artifacts beside it.

    MLflow stores the location with each experiment and run, and has no call to change it.
    """
    assert store.artifacts is not None
    assert store.database is not None
    here = Path(_place(store.artifacts))
    with closing(sqlite3.connect(store.database, timeout=10)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
            (store.artifacts, before),
        )
        runs = connection.execute(
            "SELECT run_uuid, artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?",
            (len(before) + 1, f"{before}/"),
        ).fetchall()
        for run_id, uri in runs:
            rest = uri[len(before) :]
            if (here / rest.strip("/")).exists():
                connection.execute(
                    "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (store.artifacts + rest, run_id)
                )
    logger.info("the tracking database was moved: artifacts are in %s, no longer in %s", here, _place(before))


def _place(location: str) -> str:
    """Path of a file URI; any other URI unchanged."""
    parts = urlsplit(location)
    return unquote(parts.path) if parts.scheme == "file" else location


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Context with default values of environment variables."""
    own = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _refuse_absent(uri: str) -> None:
    """Fail at once if a database server is unreachable, which MLflow retries for minutes.

    Raises:
        OSError: the server accepts no connection.
    """
    parts = urlsplit(uri)
    port = DATABASE_PORTS.get(parts.scheme.split("+")[0])
    if port is not None and parts.hostname is not None:
        with socket.create_connection((parts.hostname, parts.port or port), timeout=CONNECTION_SECONDS):
            return


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "error_code", None) in REFUSALS or isinstance(error, FileNotFoundError)


def _line(error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[:200]}"


def _named(entries: Iterable[_Entry]) -> str:
    """Entries by run, in one line."""
    runs: dict[str, list[str]] = {}
    for entry in entries:
        named = runs.setdefault(entry.run.name, [])
        if entry.what not in named:
            named.append(entry.what)
    return "; ".join(
        f"{run} ({', '.join(named[:NUM_NAMED])}{', ...' if len(named) > NUM_NAMED else ''})"
        for run, named in runs.items()
    )


def _allowed(name: str) -> str:
    """Name of a metric or parameter without characters that MLflow refuses."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def _now() -> int:
    return time.time_ns() // 1_000_000
