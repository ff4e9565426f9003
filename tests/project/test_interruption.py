"""A killed phase, resumed by the same command in the same tracked run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from speaker_verification.models.weight_files import read_json
from tests.support.project import Kedro, kedro_in
from tests.support.tracked import client_of, runs_of

LMFT = ("run", "--pipeline=lmft", "--params=lmft.epochs=3")
QUICK = "--params=fast_dev_run=2,pretrain.epochs=2,pretrain.lora.rank=4"
COMPRESS = ("run", "--pipeline=compress")
LORA = ("run", "--pipelines=pretrain,finetune", QUICK)


@contextmanager
def stopped_after_first_epoch(
    folder: Path, phase: str = "lmft", command: tuple[str, ...] = LMFT
) -> Iterator[int]:
    """The phase stands still after its first epoch, alive, and is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", *command],
        cwd=folder,
        env=os.environ | {"KEDRO_ENV": "tiny"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        state = folder / f"data/tiny/06_models/{phase}/workspace/checkpoint.resume"
        for _ in process.stdout:
            if state.exists():
                break
        assert state.exists()
        process.send_signal(signal.SIGSTOP)
        try:
            yield process.pid
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_phase_resumes_in_its_own_run(finished_copy: tuple[Path, Kedro]) -> None:
    folder, kedro = finished_copy
    before = {run.info.run_id for run in runs_of(folder)}
    (folder / "scores.txt").write_text("a b 1 target\nc d 0 nontarget\n")
    with stopped_after_first_epoch(folder) as pid:
        second = kedro(*LMFT, "--params=lmft.resume=false")
        assert second.returncode == 1
        assert "Error: lmft is running since" in second.stdout.splitlines()[-1]
        assert f"(process {pid} on host" in second.stdout
        assert (folder / "data/tiny/06_models/lmft/workspace/checkpoint/epoch_01").exists()
        beside = kedro("run", "--pipeline=measure", "--params=measure.score_file=scores.txt")
        assert beside.returncode == 0, beside.stdout
        assert len(list(folder.rglob(".*.lock"))) == 2

    refused = kedro("run")
    assert refused.returncode == 1
    assert "Error: lmft was interrupted: --from-nodes=training.lmft.train_phase resumes it" in refused.stdout
    assert f"taken over from lmft (process {pid} on host" in refused.stdout
    run = kedro(*LMFT)
    assert run.returncode == 0, run.stdout
    assert "lmft  0/3" not in run.stdout
    assert not list(folder.rglob(".*.lock"))

    runs = [run for run in runs_of(folder) if run.info.run_id not in before]
    assert [run.info.status for run in runs] == ["FINISHED"]
    for metric in ("eer/validation", "training/loss"):
        history = client_of(folder).get_metric_history(runs[0].info.run_id, metric)
        assert [point.step for point in history] == list(range(metric == "training/loss", 4))
    assert list(folder.glob("data/tiny/06_models/lmft/workspace/*")) == []


def test_a_moved_project_reads_its_own_files_and_resumes_its_phase(
    finished: tuple[Path, Kedro, str], finished_copy: tuple[Path, Kedro], tmp_path: Path
) -> None:
    with stopped_after_first_epoch(finished_copy[0]):
        pass
    folder = tmp_path / "moved"
    shutil.copytree(finished_copy[0], folder, copy_function=shutil.copyfile)  # all times are lost
    shutil.rmtree(finished_copy[0])
    data, kedro = folder / "data/tiny", kedro_in(folder)

    prepared = kedro("run", "--pipeline=prepare")
    assert prepared.returncode == 0, prepared.stdout
    assert prepared.stdout.count("nothing to convert") == 6
    tables = [file for file in data.rglob("[!.]*.parquet") if file.is_file()]
    paths = [path for file in tables for path in pd.read_parquet(file).get("path", ())]
    assert len(paths) > 100
    assert all((data / path).is_file() and not Path(path).is_absolute() for path in paths)
    for file in (file for file in data.rglob("*.json") if file.is_file()):
        assert str(finished[0]) not in file.read_text(), file

    run = kedro(*LMFT)
    assert run.returncode == 0, run.stdout
    assert "lmft  0/3" not in run.stdout
    assert "lmft: resuming from step" in run.stdout


def test_a_killed_quick_check_with_lora_resumes_and_the_next_phase_begins_with_it_merged(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    with stopped_after_first_epoch(folder, "pretrain", LORA):
        pass
    run = kedro(*LORA, "--from-nodes=training.pretrain.train_phase")
    assert run.returncode == 0, run.stdout
    assert "pretrain: resuming from step" in run.stdout
    trained = folder / "data/tiny/06_models"
    first, second = sorted(max((trained / "pretrain/checkpoint").iterdir()).glob("checkpoint/epoch_*"))
    weights = [load_file(epoch / "model.safetensors") for epoch in (first, second)]
    changed = {name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])}
    encoder = {name.split(".")[-2] for name in changed if name.startswith("frontend.")}
    assert encoder == {"q_proj", "v_proj"}
    last = next(max((trained / "finetune/checkpoint").iterdir()).glob("checkpoint/epoch_*"))
    for epoch, rank in ((second, 4), (last, 0)):
        assert read_json(epoch / "run.json")["phase"]["lora"]["rank"] == rank
        assert read_json(epoch / "config.json").keys() == {"model", "encoder"}
        assert not any("lora" in name for name in load_file(epoch / "model.safetensors"))


def test_a_killed_compression_resumes_in_its_own_run_and_its_model_is_trained_and_evaluated(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    before = {run.info.run_id for run in runs_of(folder)}
    with stopped_after_first_epoch(folder, "compress", COMPRESS):
        pass
    run = kedro(*COMPRESS)
    assert run.returncode == 0, run.stdout
    assert "compress: resuming from step" in run.stdout
    runs = [run for run in runs_of(folder) if run.info.run_id not in before]
    assert [(run.info.status, run.data.tags["stage"]) for run in runs] == [("FINISHED", "compress")]
    client, run_id = client_of(folder), runs[0].info.run_id
    for metric, first, last in (
        ("training/loss", 1, 3),
        ("training/sparsity", 1, 3),
        ("training/expected_sparsity", 1, 2),
        ("training/lambda_2", 1, 2),
        ("eer/validation", 0, 3),
    ):
        points = client.get_metric_history(run_id, metric)
        assert [point.step for point in points] == list(range(first, last + 1)), metric
    models = folder / "data/tiny/06_models"
    trained, compressed = (
        next((models / phase).glob("checkpoint/*/checkpoint/epoch_*/model.safetensors"))
        for phase in ("lmft", "compress")
    )
    assert compressed.stat().st_size < trained.stat().st_size

    small = models / "compress/checkpoint"
    phases = "--pipelines=pretrain,finetune,lmft,evaluate,package"
    trained_on = kedro("run", phases, f"--params=pretrain.start={small}")
    assert trained_on.returncode == 0, trained_on.stdout
    measured = kedro("run", "--pipelines=evaluate,report", f"--params=embed.model={small}")
    assert measured.returncode == 0, measured.stdout
