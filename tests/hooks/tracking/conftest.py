"""Projects with an MLflow database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from speaker_verification.hooks.tracking import TrackingSettings
from speaker_verification.hooks.tracking.log import RunLog
from speaker_verification.hooks.tracking.runs import TrackedRun
from tests.support.project import copy_project
from tests.support.tracked_project import EXPERIMENT, WEIRD, Project


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, in a folder whose name holds all that addresses escape; it takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("database") / WEIRD
    store = TrackingSettings(tracking_uri="sqlite:///runs/mlflow.db", experiment="x").store(folder)
    TrackedRun(RunLog(store), "run", {}, {}).open()
    return folder / "runs/mlflow.db"


@pytest.fixture
def project(tmp_path: Path, empty_database: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    copy_project(folder)
    (folder / "conf/tiny/tracking.yml").write_text(f"experiment: {EXPERIMENT}\n")
    shutil.copy(empty_database, folder)
    return Project(folder)


@pytest.fixture(autouse=True)
def _loud(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
