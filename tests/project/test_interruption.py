"""A phase that was killed goes on with the same command, in the same tracked run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow

from tests.project.conftest import Kedro

LMFT = ("run", "--pipeline=lmft", "--params=lmft.epochs=3")


def kill_after_first_epoch(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", *LMFT],
        cwd=folder,
        env=os.environ | {"KEDRO_ENV": "tiny", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        state = folder / "data/tiny/06_models/lmft/workspace/checkpoint.resume"
        for _ in process.stdout:
            if state.exists():
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_phase_goes_on_in_its_own_run(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("speaker-verification-demo")
    assert experiment is not None
    before = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    kill_after_first_epoch(folder)

    refused = kedro("run")
    assert refused.returncode == 1
    assert "Error: lmft was interrupted: --from-nodes=lmft.train_phase goes on from there" in refused.stdout
    run = kedro(*LMFT)
    assert run.returncode == 0, run.stdout
    assert "epoch 0/3" not in run.stdout

    runs = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_id not in before]
    assert [run.info.status for run in runs] == ["FINISHED"]
    for metric in ("validation.eer", "loss"):
        history = client.get_metric_history(runs[0].info.run_id, metric)
        assert [point.step for point in history] == list(range(metric == "loss", 4))
    assert list(folder.glob("data/tiny/06_models/lmft/workspace/*")) == []
