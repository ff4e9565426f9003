"""Status of a tracked run after each way of ending it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run

from speaker_verification.hooks.tracking import TrackingSettings
from tests.support.project import Kedro
from tests.support.tracked import runs_of


def newest_run(folder: Path, stage: str) -> Run:
    return next(run for run in runs_of(folder) if run.data.tags["stage"] == stage)


def test_a_phase_that_fails_is_marked_with_its_error(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    for file in folder.glob("data/tiny/06_models/pretrain/checkpoint/**/head.safetensors"):
        file.unlink()
    run = kedro("run", "--pipeline=finetune")
    assert run.returncode == 1
    assert "is no complete checkpoint" in run.stdout
    tracked = newest_run(folder, "finetune")
    assert tracked.info.status == "FAILED"
    assert "is no complete checkpoint" in tracked.data.tags["error"]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_a_phase_that_is_stopped_is_marked_as_killed_and_leaves_no_version(
    finished_copy: tuple[Path, Kedro], ending: signal.Signals
) -> None:
    folder, _ = finished_copy
    before = sorted(folder.glob("data/tiny/06_models/lmft/checkpoint/*"))
    command = [sys.executable, "-m", "kedro", "run", "--pipeline=lmft", "--params=lmft.epochs=100000"]
    environment = os.environ | {"KEDRO_ENV": "tiny"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the tests run in a shell's background, Ctrl-C is ignored and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if " 1/100000  EER" in line:
                    break
            process.send_signal(ending)
            process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert newest_run(folder, "lmft").info.status == "KILLED"
    assert sorted(folder.glob("data/tiny/06_models/lmft/checkpoint/*")) == before


def test_a_relative_database_lies_in_the_project_with_its_artifacts_beside_it(tmp_path: Path) -> None:
    settings = TrackingSettings(tracking_uri="sqlite:///runs/all.db", experiment="x").in_project(tmp_path)
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/runs/all.db"
    assert settings.artifact_location == (tmp_path / "runs/mlartifacts").as_uri()
    server = TrackingSettings(tracking_uri="http://localhost:5000", experiment="x")
    assert server.in_project(tmp_path) == server
