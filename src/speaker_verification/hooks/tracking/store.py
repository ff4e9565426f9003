"""Address of an MLflow server or database: its files, its experiment and its pages."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from speaker_verification.common.atomic import atomic_write
from speaker_verification.hooks.tracking.results import VIEW

logger = logging.getLogger(__name__)

ARTIFACTS_FOLDER = "mlartifacts"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CONNECTION_SECONDS = 5.0
SERVED = ("http", "https")
LOCAL_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` listens
TRAINING_PAGES = "workflowType=machine_learning"  # else MLflow opens on its pages for language models


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

    def server_command(self) -> str | None:
        """Command that serves the pages of a database; None where the store is a server."""
        if urlsplit(self.uri).scheme in SERVED:
            return None
        return f"mlflow ui --workers 1 --backend-store-uri {shlex.quote(str(self))}"

    def page(self, experiment: str, run: str | None = None) -> str:
        """Address of the list of an experiment's runs with their error rates, or of a run.

        Args:
            experiment: MLflow's id of the experiment.
            run: id of the run.
        """
        server = LOCAL_SERVER if self.server_command() else str(self).rstrip("/")
        place = f"/{run}?{TRAINING_PAGES}" if run else f"?{TRAINING_PAGES}&viewStateShareKey={VIEW}"
        return f"{server}/#/experiments/{experiment}/runs{place}"


def create_database(database: Path) -> None:
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


def relocate_artifacts(store: Store, before: str) -> None:
    """Point the experiments of a moved database to the artifacts beside it.

    MLflow stores the location with each experiment and run, and has no call to change it.
    """
    assert store.artifacts is not None
    assert store.database is not None
    here = Path(place(store.artifacts))
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
    logger.info("the tracking database was moved: artifacts are in %s, no longer in %s", here, place(before))


def place(location: str) -> str:
    """Path of a file URI; any other URI unchanged."""
    parts = urlsplit(location)
    return unquote(parts.path) if parts.scheme == "file" else location


def refuse_absent(uri: str) -> None:
    """Fail at once if a database server is unreachable, which MLflow retries for minutes.

    Raises:
        OSError: the server accepts no connection.
    """
    parts = urlsplit(uri)
    port = DATABASE_PORTS.get(parts.scheme.split("+")[0])
    if port is not None and parts.hostname is not None:
        with socket.create_connection((parts.hostname, parts.port or port), timeout=CONNECTION_SECONDS):
            return
