"""Queue of entries for an MLflow store, sent in order, retried, and reported if they stay missing.

No entry raises. A store that does not answer is retried with back-off; deleted runs and experiments are
restored, and replaced where that is impossible.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speaker_verification.hooks.tracking.results import view_tags
from speaker_verification.hooks.tracking.store import (
    ARTIFACTS_FOLDER,
    Store,
    create_database,
    place,
    refuse_absent,
    relocate_artifacts,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from speaker_verification.hooks.tracking.runs import TrackedRun

logger = logging.getLogger(__name__)

MAX_QUEUED = 10_000  # entries kept while the server is unreachable
NUM_NAMED = 8  # missing entries of a run that messages name
# Instead of MLflow's seven retries of up to two minutes each: failed entries are retried later.
IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
IMPATIENT_UPLOADS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
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


@dataclass
class Entry:
    """Entry to log to a run.

    Attributes:
        run: run that it belongs to.
        what: its name in messages.
        send: call that logs it.
        uploads: whether files are sent.
        optional: whether it is dropped where the store is away, rather than kept.
    """

    run: TrackedRun
    what: str
    send: Callable[[MlflowClient], None]
    uploads: bool = False
    optional: bool = False


class RunLog:
    """Queue of entries for one MLflow store, sent in order and retried.

    Args:
        store: address of the store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = threading.RLock()
        self._queue: deque[Entry] = deque()
        self._missing: deque[Entry] = deque(maxlen=MAX_QUEUED)
        self._unreachable = False
        self._next_try = 0.0
        self._known_client: MlflowClient | None = None
        self._experiment: str | None = None

    def send(self, entry: Entry) -> None:
        """Log an entry after the queued ones."""
        with self.lock:
            if entry.optional and (self._queue or self._unreachable):
                return
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
            return str(client.create_experiment(store.experiment, store.artifacts, view_tags({})))
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
            logger.warning("MLflow's experiment '%s' had been deleted: restored", store.experiment)
        if store.artifacts is not None and place(found.artifact_location) != place(store.artifacts):
            moved = store.database and not store.chosen_artifacts
            if moved and Path(place(found.artifact_location)).name == ARTIFACTS_FOLDER:
                relocate_artifacts(store, found.artifact_location)
            elif store.chosen_artifacts:
                logger.warning(
                    "MLflow's experiment '%s' keeps its artifacts in %s: name another experiment in "
                    "tracking.yml to have them elsewhere",
                    store.experiment,
                    found.artifact_location,
                )
        for tag, value in view_tags(found.tags).items():
            client.set_experiment_tag(found.experiment_id, tag, value)
        return str(found.experiment_id)

    def _send_queue(self) -> None:
        """Send entries until one fails; a failed upload holds up other uploads only."""
        entries, kept = self._queue, deque[Entry]()
        failures: dict[bool, Exception] = {}  # by whether it was an upload
        started = time.monotonic()
        try:
            while entries and False not in failures:
                entry = entries[0]
                failure = None if entry.uploads in failures else self._failure_of(entry)
                if failure is not None:
                    failures[entry.uploads] = failure
                if entry.uploads in failures and not entry.optional:
                    kept.append(entry)
                entries.popleft()
        finally:  # a signal may end the process here
            self._queue = kept + entries
        self._report(next(iter(failures.values()), None), time.monotonic() - started)

    def _failure_of(self, entry: Entry) -> Exception | None:
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

    def _send(self, entry: Entry) -> None:
        if self._unreachable or self._known_client is None:
            refuse_absent(self.store.uri)
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
                create_database(self.store.database)
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


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "error_code", None) in REFUSALS or isinstance(error, FileNotFoundError)


def _line(error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[:200]}"


def _named(entries: Iterable[Entry]) -> str:
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
