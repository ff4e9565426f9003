"""The road under torchrun: one run, whatever the number of processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.support.project import Kedro
from tests.support.torchrun import Torchrun
from tests.support.tracked import client_of, runs_of

LMFT = ("run", "--pipeline=lmft")
LAYERS = ("02_intermediate", "03_primary")
TIMED = (".source", ".without_vocals.json")


@pytest.fixture(scope="module")
def by_two(
    finished: tuple[Path, Kedro, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """A finished project, a copy in which two processes prepare, train and embed, and what they print."""
    by_one, folder = finished[0], tmp_path_factory.mktemp("by_two") / "copy"
    shutil.copytree(by_one, folder)
    for layer in LAYERS:
        shutil.rmtree(folder / "data/tiny" / layer)
    model = next(folder.glob("data/tiny/06_models/lmft/checkpoint/*/checkpoint/epoch_*"))
    parameters = f"--params=lmft.epochs=2,embed.model={model}"
    with Torchrun(folder, 2, "run", "--pipelines=prepare,lmft,embed", parameters) as running:
        printed, _ = running.communicate()
    assert running.returncode == 0, printed
    return by_one, folder, printed


def test_two_processes_train_one_phase_in_one_tracked_run(by_two: tuple[Path, Path, str]) -> None:
    by_one, folder, printed = by_two
    before = {run.info.run_id for run in runs_of(by_one)}
    assert "2 processes, each with 2 of the 4 examples" in printed
    assert printed.count("lmft: train_phase  ") == 1
    assert printed.count("lmft  1/2  EER") == 1
    runs = [run for run in runs_of(folder) if run.info.run_id not in before]
    trained = [run for run in runs if run.data.tags["stage"] == "lmft"]
    assert [run.info.status for run in trained] == ["FINISHED"]
    history = client_of(folder).get_metric_history(trained[0].info.run_id, "training/loss")
    assert [point.step for point in history] == [1, 2]
    curves = sorted(folder.glob("data/tiny/06_models/lmft/learning_curve.parquet/*/*.parquet"))
    assert len(curves) == 2  # that of the finished project, and one more
    assert pd.read_parquet(curves[-1])["epoch"].max() == 2
    assert not list(folder.rglob(".*.lock"))


def test_two_processes_compress_one_model(finished_copy: tuple[Path, Kedro]) -> None:
    folder, _ = finished_copy
    with Torchrun(folder, 2, "run", "--pipeline=compress") as running:
        printed, _ = running.communicate()
    assert running.returncode == 0, printed
    assert "2 processes, each with 2 of the 4 examples" in printed
    assert printed.count("M parameters are removed") == 1
    curve = next(folder.glob("data/tiny/06_models/compress/learning_curve.parquet/*/*.parquet"))
    assert pd.read_parquet(curve).query("metric == 'sparsity'")["epoch"].tolist() == [1, 2, 3]


def prepared(folder: Path) -> dict[str, bytes]:
    """Files that `prepare` writes from its mirror; markers and the record of annotations hold times."""
    files = [path for layer in LAYERS for path in (folder / "data/tiny" / layer).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in TIMED}


def test_two_processes_prepare_the_bytes_of_one(by_two: tuple[Path, Path, str]) -> None:
    by_one, folder, printed = by_two
    expected = prepared(by_one)
    assert {Path(name).suffix for name in expected} == {".wav", ".parquet"}
    assert printed.count("vox2-dev: 38 recordings") == 1
    assert prepared(folder) == expected


def test_two_processes_embed_the_bytes_of_one(by_two: tuple[Path, Path, str]) -> None:
    _, folder, _ = by_two
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
        with Torchrun(folder, 2, *LMFT, *arguments) as launcher:
            printed, _ = launcher.communicate()
        assert launcher.returncode == 1
        assert sum("Error: " in one and line in one for one in printed.splitlines()) == 1, printed
        assert "]: Traceback" not in printed  # of a worker; the launcher's own is torchrun's


def test_a_killed_worker_ends_all_and_another_number_of_processes_finishes(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    parameters = "--params=lmft.epochs=40,lmft.save_every_steps=1"
    with Torchrun(folder, 2, *LMFT, parameters) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if "lmft   2/40" in line:
                break
        workers = launcher.workers()
        assert sorted(workers) == [0, 1]
        killed = time.monotonic()
        os.kill(workers[1], signal.SIGKILL)
        launcher.communicate()
        assert time.monotonic() - killed < 30
    assert launcher.returncode == 1
    assert not launcher.living()
    run = kedro(*LMFT, parameters)
    assert run.returncode == 0, run.stdout
    assert "resuming from step" in run.stdout
    curve = sorted(folder.glob("data/tiny/06_models/lmft/learning_curve.parquet/*/*.parquet"))[-1]
    losses = pd.read_parquet(curve).query("metric == 'loss'")
    assert losses["epoch"].tolist() == list(range(1, 41))
