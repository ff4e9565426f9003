"""Systems trained for a comparison: ended and resumed, by several processes, and with one that fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.support.project import Kedro
from tests.support.tracked import client_of, runs_of
from tests.support.waiting import wait_until

ONLY = "compare.only=lap_astp;adapter_mfa"
WIDTHS = (
    "model.layer_aggregation.adapter_mfa.adapter_width=4,model.speaker_network.asp.embedding_size=10,"
    "model.speaker_network.asp.attention_width=4"
)
COMPARE = ("run", "--pipeline=compare")
PARAMETERS = f"--params={ONLY},compare.seeds=1,{WIDTHS},lmft.skip=true,finetune.epochs=20"


def folders_of(folder: Path) -> dict[str, Path]:
    """Data roots of the compared runs, by system and seed."""
    roots = folder.glob("data/tiny/06_models/compare/*/seed_*")
    return {f"{root.parent.name} {root.name.split('_')[1]}": root for root in roots}


def trained(root: Path) -> list[Path]:
    """Checkpoints that the phases of a run have saved."""
    return sorted(root.glob("06_models/*/checkpoint/*/checkpoint/ranking.json"))


def test_a_comparison_that_is_ended_goes_on_where_it_was_and_trains_nothing_twice(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    before = {run.info.run_id for run in runs_of(folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", *COMPARE, PARAMETERS],
        cwd=folder,
        env=os.environ | {"KEDRO_ENV": "tiny"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        second = "adapter_mfa/seed_1_*/06_models/finetune/workspace/checkpoint.resume"
        wait_until(lambda: [*folder.glob(f"data/tiny/06_models/compare/{second}")], seconds=600)
        running.send_signal(signal.SIGTERM)
        assert running.stdout is not None
        printed = running.stdout.read()
    assert running.returncode == 128 + signal.SIGTERM
    assert "0 of 2 runs are done" in printed
    assert re.search(r"lap_astp seed 1 \(1 of 2\)  EER \d+\.\d\d % on vox1_o, .*; about .* left", printed)
    assert not [*folder.rglob(".*.lock")]
    roots = folders_of(folder)
    assert set(roots) == {"lap_astp 1", "adapter_mfa 1"}
    done, interrupted = (
        {file: file.stat().st_mtime_ns for file in trained(roots[name])}
        for name in ("lap_astp 1", "adapter_mfa 1")
    )
    assert (len(done), len(interrupted)) == (3, 1)

    resumed = kedro(*COMPARE, f"{PARAMETERS},compare.num_processes=2")
    assert resumed.returncode == 0, resumed.stdout
    assert "1 of 2 runs are done" in resumed.stdout
    assert "finetune: resuming from step" in (roots["adapter_mfa 1"] / "run.log").read_text()
    assert folders_of(folder) == roots
    assert [len(trained(root)) for root in roots.values()] == [3, 3]
    for file, time in (done | interrupted).items():
        assert file.stat().st_mtime_ns == time
    log = (roots["adapter_mfa 1"] / "run.log").read_text()
    assert "2 processes" in log
    assert f"next: kedro run --conf-source={roots['adapter_mfa 1'] / 'conf'} --env=tiny " in log

    rates = pd.read_csv(folder / "data/tiny/08_reporting/compared_rates.csv")
    assert set(rates["system"]) == {"lap_astp", "adapter_mfa"}
    assert set(rates["num_runs"]) == {1}
    costs = pd.read_csv(folder / "data/tiny/08_reporting/training_costs.csv")
    assert costs["encoder_parameters"].nunique() == 1
    assert (costs["training_seconds"] > 0).all()
    (page,) = folder.glob("data/tiny/08_reporting/comparison.html/*/comparison.html")
    assert "Checkpoints were chosen on held-out training speakers" in page.read_text()

    new = [run for run in runs_of(folder) if run.info.run_id not in before]
    tagged = [run for run in new if run.data.tags.get("comparison") == "data/tiny/06_models/compare"]
    (comparison,) = (run for run in tagged if run.info.run_name == "comparison of 2 systems, seeds 1")
    assert len(tagged) == 3
    assert {run.info.status for run in new} == {"FINISHED"}
    row = rates[(rates["trial_list"] == "vox1_o") & (rates["system"] == "lap_astp")].iloc[0]
    assert comparison.data.metrics["eer/vox1_o/lap_astp"] == round(row["eer"], 4)
    files = {file.path for file in client_of(folder).list_artifacts(comparison.info.run_id)}
    assert {"comparison.html", "compared_rates.csv", "rate_differences.csv", "training_costs.csv"} <= files

    again = kedro(*COMPARE, PARAMETERS)
    assert again.returncode == 0, again.stdout
    assert "2 of 2 runs are done" in again.stdout
    assert [len(trained(root)) for root in roots.values()] == [3, 3]


def test_a_run_that_fails_is_told_with_its_error_and_stops_no_other(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    diverging = "compare.systems.bad.finetune.learning_rate.maximum=1.0e+30"
    run = kedro(*COMPARE, f"--params={diverging},compare.only=bad;lap_astp,compare.seeds=1,fast_dev_run=1")
    assert run.returncode == 1
    error = run.stdout.splitlines()[-1]
    assert error.startswith("Error: compare: 1 of 2 runs failed, and the others are done: bad seed 1: ")
    assert re.search(r" \(exit code 1\); log: data/tiny/.*/bad/seed_1_\w+/run\.log", error)
    assert "bad seed 1 (2 of 2) failed: " in run.stdout
    assert "lap_astp seed 1 (1 of 2)  EER" in run.stdout
    assert not [*folder.glob("data/tiny/08_reporting/comparison.html/*")]


def test_a_system_that_the_corpus_cannot_serve_is_refused_before_any_is_trained(
    finished_copy: tuple[Path, Kedro],
) -> None:
    folder, kedro = finished_copy
    top_k = "compare.systems.many.finetune.margin.top_k=5000"
    run = kedro(*COMPARE, f"--params={top_k},compare.only=lap_astp;many")
    assert run.returncode == 1
    assert "Error: compare.systems.many: parameter 'finetune.margin.top_k' is 5000" in run.stdout
    assert not folders_of(folder)
