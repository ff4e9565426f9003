"""Runs that `compare` starts: their data roots, their processes, and what is trained again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from speaker_verification.common.tables import UTTERANCES
from speaker_verification.config.planned_runs import PlannedRun, RunSurroundings
from speaker_verification.config.tree import check_parameters
from speaker_verification.pipelines.compare.child_process import failure_of, run_to_end
from speaker_verification.pipelines.compare.training_runs import (
    LOG_FILE,
    PREPARED_LAYERS,
    TrainingRun,
    changed_parameters,
    digest_of,
)
from tests.support.config import CONF, parameters
from tests.support.waiting import wait_until

TABLES = {"trials": "0123", "utterances": "4567"}


@pytest.fixture
def surroundings(tmp_path: Path) -> RunSurroundings:
    for layer in PREPARED_LAYERS:
        (tmp_path / "data" / "mini" / layer).mkdir(parents=True)
    settings = {"globals": {"data_root": "data/mini"}, "tracking": {"experiment": "trials"}}
    return RunSurroundings(tmp_path, CONF, "mini", tmp_path / "data" / "mini", settings)


def run_of(surroundings: RunSurroundings, tables: dict[str, str] = TABLES, **given: Any) -> TrainingRun:
    plan = PlannedRun("lap_astp", 7, parameters(CONF, "mini", **given))
    return TrainingRun.of(plan, surroundings.data_root / "06_models" / "compare", tables, surroundings)


def test_a_run_with_other_parameters_or_data_has_another_folder(surroundings: RunSurroundings) -> None:
    run = run_of(surroundings)
    assert run.folder.parent == surroundings.data_root / "06_models" / "compare" / "lap_astp"
    assert run.folder.name.startswith("seed_7_")
    assert run_of(surroundings).folder == run.folder
    assert run_of(surroundings, finetune={"num_workers": 5}).folder == run.folder  # of no effect on results
    assert run_of(surroundings, finetune={"epochs": 5}).folder != run.folder
    assert run_of(surroundings, TABLES | {"trials": "89ab"}).folder != run.folder


def test_what_has_changed_since_earlier_runs_is_named(surroundings: RunSurroundings) -> None:
    before = run_of(surroundings)
    assert changed_parameters([before]) == []
    before.prepare()
    after = run_of(surroundings, TABLES | {"trials": "89ab"}, finetune={"epochs": 5})
    assert changed_parameters([before, after]) == ["finetune.epochs", "trials"]
    assert changed_parameters([replace(after, plan=replace(after.plan, seed=8))]) == []


def test_the_configuration_of_a_run_gives_its_parameters_in_its_own_data_root(
    surroundings: RunSurroundings,
) -> None:
    run = run_of(surroundings, finetune={"epochs": 5})
    run.prepare()
    conf = run.folder / "conf"
    read = parameters(conf, "mini")
    assert read == run.plan.parameters
    assert check_parameters(read).finetune.epochs == 5
    root = run.folder.relative_to(surroundings.project)
    assert yaml.safe_load((conf / "mini" / "globals.yml").read_text())["data_root"] == str(root)
    tracking = yaml.safe_load((conf / "mini" / "tracking.yml").read_text())
    assert tracking == {"experiment": "trials", "tags": {"comparison": "data/mini/06_models/compare"}}
    for layer in PREPARED_LAYERS:
        assert (run.folder / layer).resolve() == surroundings.data_root / layer
        assert not Path(os.readlink(run.folder / layer)).is_absolute()


def test_prepared_data_lie_in_the_layers_that_runs_share() -> None:
    for name in ("download", "prepare"):
        for entry in yaml.safe_load((CONF / f"base/catalog_{name}.yml").read_text()).values():
            file = entry.get("filepath")
            assert file is None or file.split("/")[1] in PREPARED_LAYERS


def test_the_time_of_a_run_goes_on_after_an_interruption(surroundings: RunSurroundings) -> None:
    run = run_of(surroundings)
    assert run.seconds == 0
    run.prepare()
    run.add_seconds(2.5)
    run.prepare()
    run.add_seconds(1.5)
    assert run.seconds == 4.0


def test_a_table_is_the_same_wherever_its_files_are() -> None:
    table = pd.DataFrame({"utterance_id": ["a", "b"], "path": ["/one/a.wav", "/one/b.wav"]})
    moved = table.assign(path=["/two/a.wav", "/two/b.wav"])
    assert digest_of(table) == digest_of(moved.assign(**dict.fromkeys(UTTERANCES.defaults, 0)))
    assert digest_of(table) != digest_of(table.assign(path=["/one/a.wav", "/one/c.wav"]))
    assert digest_of(table) != digest_of(table[::-1])


def test_output_goes_to_the_log_and_the_exit_code_comes_back(tmp_path: Path) -> None:
    log = tmp_path / LOG_FILE
    for code in (0, 3):
        program = f"import sys; print('out {code}'); sys.exit({code})"
        assert run_to_end([sys.executable, "-c", program], tmp_path, log) == code
    assert log.read_text() == "out 0\nout 3\n"


def test_a_failure_is_told_by_its_error_or_its_last_line() -> None:
    told = "12:00 INFO begun\nError: the loss is nan at step 3\nof the launcher: ChildFailedError: \n"
    assert failure_of(1, told) == "the loss is nan at step 3 (exit code 1)"
    assert failure_of(-signal.SIGKILL, "12:00 INFO begun\n\n") == "12:00 INFO begun (ended by SIGKILL)"
    assert failure_of(1, "") == "no output (exit code 1)"


WAITING = """
import signal, sys, time
from pathlib import Path
def save(*_):
    Path("saved").write_text("")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path("started").write_text("")
while True:
    time.sleep(0.05)
"""
STARTING = """
import sys
from pathlib import Path
from speaker_verification.common.termination import exit_on_signal, handle_termination
from speaker_verification.pipelines.compare.child_process import run_to_end
handle_termination(exit_on_signal)
run_to_end([sys.executable, "waiting.py"], Path(), Path("run.log"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_saves_and_ends_with_the_one_that_waits_for_it(tmp_path: Path, number: int) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    with subprocess.Popen(
        [sys.executable, "-c", STARTING],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    ) as waiting:
        wait_until((tmp_path / "started").exists)
        os.killpg(waiting.pid, number)  # as a terminal does
    assert (tmp_path / "saved").exists()
    assert waiting.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[signal.Signals(number)]
