"""Mistakes at the command line: one line each, before anything is run or tracked."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project
from kedro.io import DatasetError

from speaker_verification.cli import run, user_message
from speaker_verification.common import distributed
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError

Run = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


@pytest.fixture
def run_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The project's `kedro run`, in this process."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("KEDRO_ENV", "tiny")
    return lambda *arguments: CliRunner().invoke(run, arguments)


def refused(result: Result, project: Path) -> str:
    """The one line that a refused command printed, which left nothing in the project."""
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("Error: ")
    assert not (project / "mlflow.db").exists()
    assert not (project / "data").exists()
    return lines[0].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--env=typo"],
            "no environment 'typo' .*, which holds cnceleb, demo, imported, librispeech, local, mini, tiny",
        ),
        (["--pipeline=finetun"], r"--pipelines: no pipeline 'finetun': did you mean 'finetune'\?"),
        (["--pipelines=prepare,finetun"], r"--pipelines: no pipeline 'finetun': did you mean 'finetune'\?"),
        (["--pipeline=prepare", "--pipelines=embed"], "Options '--pipeline' and '--pipelines' cannot"),
        (["--nodes=lmft.train"], r"--nodes: no node 'lmft.train': did you mean 'lmft.train_phase'\?"),
        (["--from-nodes=lmft.train"], r"--from-nodes: .* did you mean 'lmft.train_phase'\?"),
        (["--to-nodes=train_phase"], r"--to-nodes: no node 'train_phase': did you mean '\w+.train_phase'\?"),
        (
            ["--pipeline=prepare", "--from-nodes=lmft.train_phase"],
            "--from-nodes: the node 'lmft.train_phase' is not in the chosen pipeline but in lmft: .*=lmft",
        ),
        (["--tags=evalution"], r"--tags: no tag 'evalution': did you mean 'evaluation'\?"),
        (["--from-inputs=trails"], r"--from-inputs: no dataset 'trails': did you mean 'trials'\?"),
        (["--to-outputs=metric"], r"--to-outputs: no dataset 'metric': did you mean 'metrics'\?"),
        (["--namespaces=x"], "--namespaces: no namespace 'x': known are .*, scoring.score, training, .*lmft"),
        (["--namespaces=lmtf"], r"--namespaces: no namespace 'lmtf': did you mean 'lmft'\?"),
        (
            ["--nodes=lmft.train_phase", "--namespaces=pretrain"],
            "no node matches --nodes=training.lmft.train_phase and --namespaces=training.pretrain",
        ),
        (["--runner=SequentalRunner"], "--runner: no runner .*: did you mean 'SequentialRunner'"),
        (["--runner=nowhere.Runner"], "--runner: no runner 'nowhere.Runner'"),
        (["--runner-params=max_workers=3"], "--runner-params: SequentialRunner: .*'max_workers'"),
        (["--load-versions=metrix:2026-01-01"], r"--load-versions: no dataset .*: did you mean 'metrics'"),
        (["--load-versions=metrics"], "--load-versions: Expected the form .*found metrics instead"),
        (["--load-versions=results_table:2026-01-01"], "--load-versions: 'results_table' keeps no versions"),
        (["--load-versions=metrics:2026-01-01"], "--load-versions: 'metrics' has no version .* it has none"),
        (["--params=device"], "--params: 'device' must be NAME=VALUE"),
        (["--params=finetune.monitor=[vox1_o"], r"--params: 'finetune.monitor=\[vox1_o' cannot be read"),
        (["--params=model.layer_aggregation={kind:lap}"], "--params: 'kind:lap' in .*: write a space after"),
        (["--params=fast_dev_run=yes"], "parameter 'fast_dev_run' is True: input should be a valid integer"),
        (["--params=epochs=3"], r"unknown parameter 'epochs': .* 'lmft.epochs' or 'compress.epochs'\?"),
        (["--params=finetune.monitor=vox1_o;vox9"], "parameter 'finetune.monitor' holds vox9: known are"),
        (["--params=finetune.monitor=[vox1_o,vox9]"], "parameter 'finetune.monitor' holds vox9: known are"),
        (["--params=augmentation.crop_shares=[[1,1],[0.6,0.4]]"], "'augmentation.crop_shares.1': 0.6 to 0.4"),
        (["--params=prepare.mirror=~no-such-user/x"], "parameter 'prepare.mirror': .*home folder"),
        (["--params=embed.model=nowhere"], "parameter 'embed.model': 'nowhere' is no folder"),
        (
            ["--params=model.frontend.architecture=null,model.frontend.checkpoint=./wavlm"],
            "parameter 'model.frontend.checkpoint': 'wavlm' is no folder",
        ),
    ],
)  # fmt: skip
def test_a_misspelt_word_gets_one_line(
    arguments: list[str], message: str, run_here: Run, project: Path
) -> None:
    told = refused(run_here(*arguments), project)
    assert re.search(message, told), told


@pytest.mark.parametrize("option", ["--namespaces=lmft", "--nodes=lmft.train_phase"])
def test_the_unique_end_of_a_name_selects_what_is_nested(option: str, run_here: Run, project: Path) -> None:
    told = refused(run_here(option), project)
    assert re.search("missing inputs: encoder, finetune.checkpoint, .*, then .*=finetune", told), told


def test_the_environment_of_the_shell_is_checked_too(
    run_here: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_ENV", "tinny")
    assert refused(run_here(), project).endswith("did you mean 'tiny'?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run: [\n", "line 2: not YAML"),
        ("run:\n  tags: a\n  tags: b\n", "line 3: duplicate key 'tags', first set in line 2"),
        ("runs: {pipeline: prepare}\n", "must hold options of this command below 'run:'"),
        ("run: {pipeline: prepar}\n", "--pipelines: no pipeline 'prepar'"),
        ("run: {pipelne: prepare}\n", "Key `pipelne` in provided configuration is not valid"),
        ("run: {params: 'device=x'}\n", "parameter 'device' is 'x'"),
    ],
)
def test_a_file_of_options_is_checked_too(content: str, message: str, run_here: Run, project: Path) -> None:
    (project / "run.yml").write_text(content)
    assert message in run_here("--config=run.yml").output.replace("\n", " ")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{type: nowhere.Dataset}", "dataset 'metrics'"),
        ("{typ: x}", "'typ'"),
        ("7", "Catalog entry 'metrics' is not a valid"),
    ],
)
def test_a_wrong_entry_of_the_catalog_gets_one_line(
    entry: str, message: str, run_here: Run, project: Path
) -> None:
    (project / "conf/tiny/catalog.yml").write_text(f"metrics: {entry}\n")
    told = refused(run_here("--pipeline=report"), project)
    assert told.startswith("catalog: ")
    assert message in told


def test_an_absent_version_is_told_with_those_that_are_there(run_here: Run, project: Path) -> None:
    folder = project / "data/tiny/08_reporting/metrics.json"
    for day in range(1, 6):
        version = folder / f"2026-01-0{day}T00.00.00.000Z"
        version.mkdir(parents=True)
        (version / "metrics.json").write_text("{}")
    (folder / "2026-01-09T00.00.00.000Z").mkdir()  # of a save that was killed
    result = run_here("--pipeline=report", "--load-versions=metrics:2026-02-01T00.00.00.000Z")
    assert result.exit_code == 1
    assert result.output.strip().splitlines() == [
        "Error: --load-versions: 'metrics' has no version '2026-02-01T00.00.00.000Z': the newest are "
        "2026-01-05T00.00.00.000Z, 2026-01-04T00.00.00.000Z, 2026-01-03T00.00.00.000Z"
    ]


def test_a_list_is_taken_from_the_command_line(run_here: Run) -> None:
    for given in ("vox1_o;vox1_e", "[vox1_o,vox1_e]"):
        values = f"finetune.monitor={given},finetune.rank_by=vox1_h"
        assert "one of: validation, last, vox1_o, vox1_e" in run_here(f"--params={values}").output


@pytest.mark.parametrize("pipeline", ["embed", "__default__"])
def test_an_encoder_is_no_model_to_embed_with_and_nothing_is_run(
    pipeline: str, run_here: Run, project: Path
) -> None:
    (project / "encoder").mkdir()
    (project / "encoder/config.json").write_text('{"model_type": "wavlm"}')
    told = refused(run_here(f"--pipeline={pipeline}", "--params=embed.model=encoder"), project)
    assert told.startswith("parameter 'embed.model': 'encoder' is an encoder (wavlm)")


def test_a_data_root_that_is_no_folder_is_told_before_anything_runs(run_here: Run, project: Path) -> None:
    (project / "file").write_text("")
    (project / "conf/tiny/globals.yml").write_text("data_root: file/x\n")
    told = refused(run_here("--pipeline=prepare"), project)
    assert re.match(r"cannot write to '.*/file/x/.*': Not a directory; .* use another data_root", told)


@pytest.mark.parametrize(("local_rank", "num_lines"), [(0, 1), (1, 0)])
def test_a_host_cut_off_from_the_others_is_told_of_once(
    local_rank: int, num_lines: int, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"RANK": f"{4 + local_rank}", "WORLD_SIZE": "8", "LOCAL_RANK": f"{local_rank}"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "CONNECT_SECONDS", 0)
    result = run_here("--pipeline=prepare")
    assert result.exit_code == 1
    assert result.output.count("Error: cannot join the other processes through 127.0.0.1:1 ") == num_lines


def test_an_error_of_the_system_is_a_line_with_its_path(run_here: Run, project: Path) -> None:
    blocked = project / "data/tiny/01_raw"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    result = run_here("--pipeline=prepare")
    assert result.exit_code == 1
    assert f"'{blocked}'" in result.output
    assert "Traceback" not in result.output
    assert "No nodes ran" not in result.output


def test_every_kind_of_system_error_is_told_and_an_error_of_the_program_is_not() -> None:
    def wrapped(cause: Exception) -> Exception:
        error = DatasetError("Failed while saving data")
        error.__cause__ = cause
        return error

    for number, remedy in (
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "data_root"),
        (errno.ENOSPC, "free disk space"),
        (errno.ENOTDIR, "name of a folder"),
        (errno.EISDIR, "name of a file"),
        (errno.EMFILE, "Too many open files"),
    ):
        told = user_message(wrapped(OSError(number, os.strerror(number), "/disk/x")))
        assert told is not None
        assert told.startswith("/disk/x: ")
        assert remedy in told
        assert "\n" not in told
    assert "free disk space" in str(user_message(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert "tracking" in str(user_message(wrapped(sqlite3.OperationalError("database is locked"))))
    assert user_message(wrapped(DataError("no such id"))) == "no such id"
    assert user_message(wrapped(KeyError("row"))) is None
    assert user_message(ConnectionResetError(errno.ECONNRESET, "reset by peer")) is None


def test_an_error_of_writing_carries_the_path(tmp_path: Path) -> None:
    def write_to_full_disk() -> None:
        with atomic_write(tmp_path / "table.parquet") as part:
            part.write_bytes(b"half")
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_to_full_disk()
    assert caught.value.filename == str(tmp_path / "table.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_where_a_library_does_not(tmp_path: Path) -> None:
    def write_by_library() -> None:
        with atomic_write(tmp_path / "model.safetensors"):
            raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors says it

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_by_library()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model.safetensors"))


def test_kedro_s_advice_is_dropped_only_where_it_is_wrong(
    run_here: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run_here("--pipeline=nothing")
    log = logging.getLogger("kedro.runner.sequential_runner")
    with caplog.at_level(logging.WARNING, logger=log.name):
        log.warning("No nodes ran. Repeat the previous command to attempt a new run.")
        log.warning("There are 3 nodes that have not run.")
    assert [record.getMessage() for record in caplog.records] == ["There are 3 nodes that have not run."]
