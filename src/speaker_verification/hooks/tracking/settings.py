"""Contents of tracking.yml."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from speaker_verification.common.settings_base import Settings
from speaker_verification.config.phases import CHECKPOINT
from speaker_verification.hooks.tracking.store import ARTIFACTS_FOLDER, Store, sqlite_uri

SQLITE = "sqlite:///"
ARTIFACT, FIGURE, METRICS, REPORT, VERIFIER = "artifact", "figure", "metrics", "report", "verifier"
KINDS = (ARTIFACT, CHECKPOINT, FIGURE, METRICS, REPORT, VERIFIER)  # of metadata.mlflow in the catalog


class TrackingSettings(Settings):
    """Contents of tracking.yml."""

    enabled: bool = True
    tracking_uri: str
    experiment: str
    artifact_location: str | None = None
    log_checkpoints: bool = True
    log_verifier: bool = True
    system_metrics_seconds: float | None = Field(default=10.0, gt=0)
    tags: dict[str, str] = Field(default_factory=dict)

    def logs(self, kind: str | None) -> bool:
        """Whether datasets of a kind are logged."""
        switches = {None: False, CHECKPOINT: self.log_checkpoints, VERIFIER: self.log_verifier}
        return switches.get(kind, True)

    def database(self, folder: Path) -> Path | None:
        """The SQLite file that the tracking URI names, if it names one."""
        file = self.tracking_uri.removeprefix(SQLITE)
        if file == self.tracking_uri or "?" in file or file in ("", ":memory:"):
            return None
        return folder / unquote(file)

    def in_project(self, project_path: Path) -> TrackingSettings:
        """With a relative SQLite file resolved, the artifacts beside it or in the folder that is named."""
        changes: dict[str, str] = {}
        database = self.database(project_path)
        if self.artifact_location is not None:
            if not urlsplit(self.artifact_location).scheme:
                folder = project_path / Path(self.artifact_location).expanduser()
                changes["artifact_location"] = folder.as_uri()
        elif database is not None:
            changes["artifact_location"] = (database.parent / ARTIFACTS_FOLDER).as_uri()
        if database is not None:
            changes["tracking_uri"] = sqlite_uri(database)
        return self.model_copy(update=changes) if changes else self

    def store(self, project_path: Path) -> Store:
        """The MLflow store to log to: MLFLOW_TRACKING_URI goes before the file."""
        named, folder = self, project_path
        if given := os.environ.get("MLFLOW_TRACKING_URI"):
            chosen = self.in_project(project_path).artifact_location if self.artifact_location else None
            named = self.model_copy(update={"tracking_uri": given, "artifact_location": chosen})
            folder = Path.cwd()  # as MLflow takes it
        placed = named.in_project(folder)
        return Store(
            placed.tracking_uri,
            placed.experiment,
            placed.artifact_location,
            named.database(folder),
            chosen_artifacts=self.artifact_location is not None,
        )
