"""The road under torchrun: one run, whatever the number of processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from tests.support.project import Kedro
from tests.support.tracked import client_of, runs_of

LAUNCHER = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "--no-python",
]
LMFT = ("run", "--pipeline=lmft")


def under_torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAUNCHER, sys.executable, "-m", "kedro", *arguments],
        cwd=folder,
        env=os.environ | {"KEDRO_ENV": "tiny", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_of(launcher: int) -> dict[int, int]:
    """Process ids of the workers by their ranks."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        ranks = [int(name[5:]) for name in variables if name.startswith(b"RANK=")]
        if int(parent) == launcher and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def test_two_processes_train_one_phase_in_one_tracked_run(finished_copy: tuple[Path, Kedro]) -> None:
    folder, _ = finished_copy
    before = {run.info.run_id for run in runs_of(folder)}
    with under_torchrun(folder, *LMFT, "--params=lmft.epochs=2") as launcher:
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0, printed
    assert "2 processes, each with 2 of the 4 examples" in printed
    assert (
        printed.count("Running node: train_phase") == printed.count("Completed node: lmft.train_phase") == 1
    )
    assert printed.count("epoch 1/2: loss") == 1
    runs = [run for run in runs_of(folder) if run.info.run_id not in before]
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = client_of(folder).get_metric_history(runs[0].info.run_id, "loss")
    assert [point.step for point in history] == [1, 2]
    curves = sorted(folder.glob("data/tiny/06_models/lmft/learning_curve.parquet/*/*.parquet"))
    assert len(curves) == 2  # that of the finished project, and one more
    assert pd.read_parquet(curves[-1])["epoch"].max() == 2
    assert not list(folder.rglob(".*.lock"))


def prepared(folder: Path) -> dict[str, bytes]:
    """Files that `prepare` writes from its mirror; markers hold times."""
    layers = [folder / "data/tiny" / layer for layer in ("02_intermediate", "03_primary")]
    files = [path for layer in layers for path in layer.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != ".source"}


def test_two_processes_prepare_the_bytes_of_one(finished_copy: tuple[Path, Kedro]) -> None:
    folder, _ = finished_copy
    by_one = prepared(folder)
    assert {Path(name).suffix for name in by_one} == {".wav", ".parquet"}
    for layer in ("02_intermediate", "03_primary"):
        shutil.rmtree(folder / "data/tiny" / layer)
    with under_torchrun(folder, "run", "--pipeline=prepare") as launcher:
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0, printed
    assert printed.count("vox2-dev: 38 recordings, 0 of them") == 1
    assert prepared(folder) == by_one


def test_two_processes_embed_the_bytes_of_one(finished_copy: tuple[Path, Kedro]) -> None:
    folder, _ = finished_copy
    with under_torchrun(folder, "run", "--pipeline=embed") as launcher:
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0, printed
    for name in ("embeddings", "cohort_embeddings"):
        before, after = sorted(folder.glob(f"data/tiny/07_model_output/{name}/*/{name}/embeddings.npy"))
        assert before.read_bytes() == after.read_bytes()
    assert not any(folder.glob("data/tiny/07_model_output/workspace/*"))


def test_a_mistake_is_told_once(finished_copy: tuple[Path, Kedro]) -> None:
    folder, _ = finished_copy
    for arguments, line in (
        (
            ["--params=lmft.batch_size=5"],
            "parameter 'batch_size' is 5, which 2 processes cannot share evenly",
        ),
        (["--params=lmft.epoch=2"], "did you mean"),
    ):
        with under_torchrun(folder, *LMFT, *arguments) as launcher:
            printed, _ = launcher.communicate()
        assert launcher.returncode == 1
        assert sum("Error: " in one and line in one for one in printed.splitlines()) == 1, printed
        assert "]: Traceback" not in printed  # of a worker; the launcher's own is torchrun's


def test_a_killed_worker_ends_all_and_another_number_of_processes_finishes(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    parameters = "--params=lmft.epochs=40,lmft.save_every_steps=1"
    with under_torchrun(folder, *LMFT, parameters) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if "epoch 2/40" in line:
                break
        workers = workers_of(launcher.pid)
        assert sorted(workers) == [0, 1]
        killed = time.monotonic()
        os.kill(workers[1], signal.SIGKILL)
        launcher.communicate()
        assert time.monotonic() - killed < 30
    assert launcher.returncode == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers.values())
    run = kedro(*LMFT, parameters)
    assert run.returncode == 0, run.stdout
    assert "resuming from step" in run.stdout
    curve = sorted(folder.glob("data/tiny/06_models/lmft/learning_curve.parquet/*/*.parquet"))[-1]
    losses = pd.read_parquet(curve).query("metric == 'loss'")
    assert losses["epoch"].tolist() == list(range(1, 41))
