"""Tracking costs no result, whatever becomes of MLflow, and every figure stands with the model it is of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import SharedMemoryDataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import ThreadRunner
from mlflow.entities import ViewType
from plotly.graph_objects import Figure
from sqlalchemy import Engine

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.hooks.checks import ParametersHook
from speaker_verification.hooks.tracking import TrackingSettings, begin
from speaker_verification.hooks.tracking.log import RunLog
from speaker_verification.hooks.tracking.runs import TrackedRun
from speaker_verification.pipelines.package import load_verifier
from speaker_verification.reporting.figures.training import learning_curve_figure
from speaker_verification.training.kept_epochs import RUN_FILE
from tests.support.processes import free_port
from tests.support.tracked_project import (
    EPOCHS,
    EXPERIMENT,
    WEIRD,
    Project,
    embedding,
    lines_in,
    measuring,
    road,
    train,
    training,
)
from tests.support.verifiers import Measured
from tests.support.verifiers import measured as measured


class Server:
    """A real MLflow server."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240  # it starts slowly
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
            except OSError:
                time.sleep(0.3)
            else:
                return
        raise TimeoutError(self.uri)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def server(project: Project) -> Iterator[Server]:
    server = Server(project.folder)
    server.start()
    yield server
    server.kill()


@pytest.mark.project
def test_a_server_that_goes_and_comes_back_misses_nothing(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    def switch(epoch: int) -> None:
        if epoch == 0:
            server.kill()
        elif epoch == EPOCHS:
            server.start()

    project.run(training(after_epoch=switch))
    lines = lines_in(caplog)
    assert len([line for line in lines if "is unreachable" in line]) == 1
    assert not [line for line in lines if "lacks" in line]
    run = project.run_of("pretrain")
    assert project.epochs(run) == list(range(EPOCHS + 1))
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == project.run_of("experiment").info.run_id
    stored = project.folder / "artifacts" / run.info.experiment_id / run.info.run_id / "artifacts"
    assert {"checkpoint", "learning_curve.parquet"} <= {path.name for path in stored.iterdir()}


def test_an_absent_server_costs_seconds_and_the_end_says_what_it_lacks(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:pa55@127.0.0.1:{free_port()}")
    before = dict(os.environ)
    started = time.monotonic()
    project.run(*road(), embedding(), measuring(30.0))
    assert time.monotonic() - started < 30
    warned = [line for line in lines_in(caplog) if "MLflow at" in line]
    away, lacks = warned
    assert "is unreachable" in away
    for what in ("pretrain (start, parameters, tags, epoch 0", "lmft (", "evaluate (", "error rates"):
        assert what in lacks
    assert "pa55" not in away + lacks
    assert dict(os.environ) == before
    assert list(project.folder.glob("data/tiny/06_models/lmft/checkpoint/*/checkpoint/epoch_01"))
    assert project.runs() == []


def test_a_server_that_never_answers_costs_one_time_out_which_a_person_may_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        log = RunLog(TrackingSettings(tracking_uri=uri, experiment="x").store(tmp_path))
        run = TrackedRun(log, "run", {}, {})
        for epoch in range(5):
            run.log_metrics(f"epoch {epoch}", {epoch: {"loss": 1.0}})
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody asked twice
            silent.accept()
        log.close()
    assert "run (start, parameters, epoch 0, epoch 1, " in lines_in(caplog)[-1]
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"


def test_an_absent_database_server_costs_seconds_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"postgresql://ann:pa55@127.0.0.1:{free_port()}/mlflow"
    log = RunLog(TrackingSettings(tracking_uri=uri, experiment="x").store(tmp_path))
    started = time.monotonic()
    TrackedRun(log, "run", {}, {}).open()
    log.close()
    assert time.monotonic() - started < 10
    away, lacks = lines_in(caplog)
    assert "ConnectionRefusedError" in away
    assert "run (start, parameters)" in lacks


def test_a_database_that_cannot_be_written_costs_no_result(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    (project.folder / "mlflow.db").write_text("no database")
    project.run(training())
    assert list(project.folder.glob("data/tiny/06_models/pretrain/checkpoint/*/checkpoint"))
    assert "pretrain (start, " in lines_in(caplog)[-1]


def test_a_deleted_experiment_is_restored_with_a_line(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(training())
    experiment = project.client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    project.client.delete_experiment(experiment.experiment_id)
    project.run(training())
    assert f"MLflow's experiment '{EXPERIMENT}' had been deleted: restored" in lines_in(caplog)
    assert [run.info.status for run in project.runs("pretrain")] == ["FINISHED"] * 2


def stop(_: int) -> None:
    raise DataError("stopped")


@pytest.mark.parametrize("stage", ["experiment", "pretrain"])
def test_an_interrupted_phase_is_resumed_in_its_run_though_that_was_deleted(
    project: Project, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    before = {run.info.run_id for run in project.runs()}
    project.client.delete_run(project.run_of(stage).info.run_id)
    project.run(training())
    assert len([line for line in lines_in(caplog) if "had been deleted: restored" in line]) == 1
    assert {run.info.run_id for run in project.runs()} == before
    assert {run.info.status for run in project.runs()} == {"FINISHED"}
    run = project.run_of("pretrain")
    assert project.epochs(run) == list(range(EPOCHS + 1))
    assert "error" not in run.data.tags


def test_a_run_deleted_while_it_is_written_to_is_restored(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def delete(epoch: int) -> None:
        if epoch == 1:
            experiment = project.client.get_experiment_by_name(EXPERIMENT)
            assert experiment is not None
            project.client.delete_experiment(experiment.experiment_id)

    project.run(training(after_epoch=delete))
    assert project.epochs(project.run_of("pretrain")) == list(range(EPOCHS + 1))
    assert {run.info.status for run in project.runs()} == {"FINISHED"}
    assert not [line for line in lines_in(caplog) if "lacks" in line]


def test_an_interrupted_phase_whose_runs_are_gone_gets_new_ones_with_a_line(
    project: Project, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    shutil.copy(empty_database, project.folder)
    project.run(training())
    told = [line for line in lines_in(caplog) if "continues in the new run" in line]
    assert len(told) == 2  # the phase's and the experiment's
    assert (
        project.run_of("pretrain").data.tags["mlflow.parentRunId"] == project.run_of("experiment").info.run_id
    )


def test_a_thread_leaves_no_run_open(project: Project) -> None:
    errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            project.run(training())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert errors == []
    assert {run.info.status for run in project.runs()} == {"FINISHED"}


def test_a_runner_with_threads_tracks_as_the_sequential_one(project: Project) -> None:
    project.run(*road(), embedding(), measuring(30.0), runner=ThreadRunner(2))
    (experiment,) = project.runs("experiment")
    others = [run for run in project.runs() if run.info.run_id != experiment.info.run_id]
    assert sorted(run.info.run_name for run in others) == ["evaluate", "finetune", "lmft", "pretrain"]
    assert {run.data.tags["mlflow.parentRunId"] for run in others} == {experiment.info.run_id}
    assert {run.info.status for run in project.runs()} == {"FINISHED"}
    assert experiment.data.metrics == {"eer/vox1_o/cosine": 30.0}


def test_a_runner_with_processes_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"ParallelRunner.*ThreadRunner"):
        ParametersHook().before_pipeline_run(Pipeline([]), SharedMemoryDataCatalog())


def test_any_path_will_do(project: Project, tmp_path: Path) -> None:
    project = project.moved(tmp_path / WEIRD)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    project.run(training())
    (run,) = project.runs("pretrain")
    assert project.epochs(run) == list(range(EPOCHS + 1))
    stored = project.folder / "mlartifacts" / run.info.run_id / "artifacts"
    assert (stored / "learning_curve.parquet").is_file()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_new_database_lies_in_the_project_whatever_its_path(empty_database: Path) -> None:
    top = empty_database.parents[2]
    assert [path.relative_to(top).as_posix() for path in top.rglob("*.db")] == [f"{WEIRD}/runs/mlflow.db"]
    assert [path.name for path in top.iterdir()] == [WEIRD]


def test_a_database_is_there_only_with_all_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow makes them in dozens of steps, and refuses a file that a kill has left between two."""

    def interrupt(engine: Engine) -> None:
        raise KeyboardInterrupt

    store = TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment="x").store(tmp_path)
    monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", interrupt)
    with pytest.raises(KeyboardInterrupt):
        TrackedRun(RunLog(store), "run", {}, {}).open()
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    TrackedRun(RunLog(store), "run", {}, {}).open()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_moved_project_takes_its_artifacts_along(project: Project, tmp_path: Path) -> None:
    old = project.folder
    project.run(training())
    project = project.moved(tmp_path / "elsewhere")
    project.run(training())
    first, second = project.runs("pretrain")
    for run in (first, second):
        assert {"checkpoint", "learning_curve.parquet"} <= project.artifacts(run)
        assert (project.folder / "mlartifacts" / run.info.run_id).is_dir()
    assert not old.exists()


def test_an_interrupted_phase_is_resumed_in_its_run_after_a_move(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    project = project.moved(tmp_path / "it's elsewhere")
    project.run(training())
    assert project.epochs(project.run_of("pretrain")) == list(range(EPOCHS + 1))


def test_artifacts_that_somebody_placed_elsewhere_stay_there(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(training())
    tracking = project.folder / "conf/tiny/tracking.yml"
    tracking.write_text(f"experiment: {EXPERIMENT}\nartifact_location: other\n")
    project.run(training())
    assert [line for line in lines_in(caplog) if "keeps its artifacts in" in line]
    assert not (project.folder / "other").exists()
    tracking.write_text("experiment: another\nartifact_location: other\n")
    project.run(training())
    assert len(list((project.folder / "other").iterdir())) == 2


def test_a_server_chooses_where_its_artifacts_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    store = TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment="x").store(tmp_path)
    assert (store.uri, store.artifacts, store.database) == ("http://localhost:5000", None, None)


def test_one_setting_turns_tracking_off(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()
    (project.folder / "conf/tiny/tracking.yml").write_text("enabled: false\n")
    project.run(*road(), embedding(), measuring(30.0))
    assert not list(project.folder.glob("ml*"))
    (checkpoint,) = project.folder.glob("data/tiny/06_models/lmft/checkpoint/*/checkpoint")
    assert json.loads((checkpoint / "epoch_01" / RUN_FILE).read_text()) == {"tracking": {}}


def test_an_evaluation_joins_the_experiment_that_trained_its_model(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(*road(), embedding(), measuring(33.44))
    (model,) = project.folder.glob("data/tiny/06_models/lmft/checkpoint/*/checkpoint/epoch_01")
    own = project.run_of("experiment")
    assert json.loads((model / RUN_FILE).read_text())["tracking"] == {
        "experiment": own.info.run_id,
        "run": project.run_of("lmft").info.run_id,
    }
    project.run(training())  # another experiment, the newest
    project.run(embedding(), measuring(29.44), embed={"model": str(model)})
    first, second = project.runs("evaluate")
    assert second.data.tags["mlflow.parentRunId"] == own.info.run_id
    assert (first.data.metrics["eer/vox1_o/cosine"], second.data.metrics["eer/vox1_o/cosine"]) == (
        33.44,
        29.44,
    )
    own, newest = project.runs("experiment")
    assert own.data.metrics == {"eer/vox1_o/cosine": 33.44}
    assert newest.data.metrics == {}
    assert [line for line in lines_in(caplog) if "keeps its first error rates" in line and "vox1_o" in line]


def test_what_is_scored_and_reported_later_joins_the_experiment_too(project: Project) -> None:
    project.run(*road(), embedding())
    own = project.run_of("experiment")
    project.run(training())  # another experiment, the newest
    calibrate = Node(lambda _: {}, "embeddings", "calibration", name="fit_scorings", tags="evaluation")
    project.run(calibrate)
    project.run(measuring(30.0, needs="calibration"))
    parents = {run.data.tags["mlflow.parentRunId"] for run in project.runs("evaluate")}
    assert len(project.runs("evaluate")) == 3
    assert parents == {own.info.run_id}


def test_a_model_from_elsewhere_gets_an_experiment_of_its_own(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(*road(), embedding(), measuring(33.44))
    before = project.run_of("experiment")
    foreign = tmp_path / "somebody's model"
    foreign.mkdir()
    project.run(embedding(), measuring(29.44), embed={"model": str(foreign)})
    trained, other = project.runs("experiment")
    assert trained.to_dictionary() == before.to_dictionary()
    assert "somebody's model" in other.info.run_name
    assert other.data.metrics == {"eer/vox1_o/cosine": 29.44}
    assert other.info.status == "FINISHED"
    assert project.runs("evaluate")[1].data.tags["mlflow.parentRunId"] == other.info.run_id
    assert len([line for line in lines_in(caplog) if "experiment run of its own" in line]) == 1
    project.run(measuring(28.0))  # of the same embeddings
    assert project.runs("evaluate")[2].data.tags["mlflow.parentRunId"] == other.info.run_id


def test_a_phase_alone_joins_the_experiment_of_the_checkpoint_that_it_starts_from(project: Project) -> None:
    project.run(*road())
    own = project.run_of("experiment")
    project.run(training())  # another experiment, the newest, whose checkpoint is not there any more
    shutil.rmtree(max(project.folder.glob("data/tiny/06_models/pretrain/checkpoint/*")))
    project.run(training("finetune", "pretrain.checkpoint"))
    first, second = project.runs("finetune")
    assert second.data.tags["mlflow.parentRunId"] == own.info.run_id
    assert second.info.run_id != first.info.run_id


def test_a_refused_start_leaves_no_run(project: Project) -> None:
    def refuse(*_: Any) -> None:
        raise ParameterError("parameter 'device' is 'cuda:7'")

    with pytest.raises(ParameterError):
        project.run(training(function=refuse))
    assert project.runs(view=ViewType.ALL) == []
    unloadable = Node(
        lambda _: stop(0), "trials", "embeddings", name="embed_trial_utterances", tags="evaluation"
    )
    project.run(*road())
    before = [run.to_dictionary() for run in project.runs(view=ViewType.ALL)]
    table = project.folder / "data/tiny/03_primary/trials.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"trial_list": ["a"], "label": [1], "enroll_id": ["b"], "test_id": ["c"]}).to_parquet(table)
    with pytest.raises(DataError):
        project.run(unloadable)
    assert [run.to_dictionary() for run in project.runs(view=ViewType.ALL)] == before


def test_a_resumption_that_is_refused_leaves_the_run_as_it_was(project: Project) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    before = [run.to_dictionary() for run in project.runs()]

    def refuse(*_: Any) -> None:
        raise DataError("cannot resume with changed inputs")

    with pytest.raises(DataError):
        project.run(training(function=refuse))
    assert [run.to_dictionary() for run in project.runs()] == before


def test_a_killed_phase_that_is_started_anew_leaves_no_run_open(
    project: Project, empty_database: Path
) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    for run in project.runs():
        project.client.update_run(run.info.run_id, status="RUNNING")  # as kill -9 leaves it
    project.run(training(), pretrain={"resume": False})
    assert [run.info.status for run in project.runs("pretrain")] == ["KILLED", "FINISHED"]
    assert [run.info.status for run in project.runs("experiment")] == ["KILLED", "FINISHED"]
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    shutil.copy(empty_database, project.folder)
    project.run(training(), pretrain={"resume": False})
    assert len(project.runs()) == 2


def test_a_phase_that_breaks_before_its_first_epoch_is_marked_as_failed(project: Project) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError):
        project.run(training(function=fail))
    run = project.run_of("pretrain")
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "RuntimeError: no more memory"
    assert project.run_of("experiment").info.status == "FAILED"


def test_a_run_knows_its_environment_even_if_none_is_given(project: Project) -> None:
    shutil.copy(project.folder / "conf/tiny/tracking.yml", project.folder / "conf/base/tracking.yml")
    base = project.folder / "conf/base/tracking.yml"
    base.write_text(base.read_text() + "tracking_uri: sqlite:///mlflow.db\n")
    project.run(training(), env=None)
    assert project.run_of("experiment").data.tags["env"] == "local"


def test_a_phase_lasts_as_long_as_its_training(project: Project) -> None:
    drawn_at = []

    def draw(learning_curve: pd.DataFrame) -> Figure:
        drawn_at.append(time.time())
        return learning_curve_figure({"pretrain": learning_curve})

    figure = Node(
        draw, "pretrain.learning_curve", "pretrain.schedule", name="draw_schedule", namespace="pretrain"
    )
    project.run(training(), figure)
    run = project.run_of("pretrain")
    assert run.info.end_time / 1000 <= drawn_at[0]
    assert "schedule.html" in project.artifacts(run)
    before = run.to_dictionary()
    project.run(figure)  # drawn again, without the phase
    assert project.run_of("pretrain").to_dictionary() == before
    assert len(project.runs()) == 2


def test_an_epoch_told_again_is_not_logged_twice(project: Project) -> None:
    store = TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment="x").store(project.folder)
    log = RunLog(store)
    run = TrackedRun(log, "phase", {}, {})
    run.log_metrics("epoch 1", {1: {"loss": 2.0}})
    again = TrackedRun(log, "phase", {}, {}, known=run.ids["run"])
    again.log_metrics("epoch 1", {1: {"loss": 2.5, "average.eer": 1.0}})
    again.log_metrics("epoch 2", {2: {"loss": 1.5}})
    run_id = run.ids["run"]
    assert run_id is not None
    history_of = project.client.get_metric_history
    points = [(point.step, point.value) for point in history_of(run_id, "loss")]
    assert points == [(1, 2.0), (2, 1.5)]
    assert [point.value for point in history_of(run_id, "average.eer")] == [1.0]


def test_epochs_that_were_saved_and_not_logged_are_logged_when_the_phase_is_resumed(project: Project) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))

    def resumed(phase: str, workspace: Path) -> tuple[pd.DataFrame, Path]:
        begin(phase, [{"epoch": epoch, "metric": "loss", "value": 4.0 - epoch} for epoch in range(EPOCHS)])
        return train(phase, workspace)

    project.run(training(function=resumed))
    assert project.epochs(project.run_of("pretrain")) == list(range(EPOCHS + 1))


def test_names_and_values_that_mlflow_would_refuse_are_made_to_fit(project: Project) -> None:
    store = TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment="x").store(project.folder)
    run = TrackedRun(RunLog(store), "phase", {}, {"note": "x" * 9000, "list (old)": 1})
    run.log_metrics("error rates", {0: {"my list (old).eer": 1.0}})
    assert run.ids["run"]
    logged = project.client.get_run(run.ids["run"]).data
    assert logged.metrics == {"my list _old_.eer": 1.0}
    assert logged.params["list _old_"] == "1"
    assert len(logged.params["note"]) == 6000


def packaging(verifier: Path) -> Node:
    def package(_: Any) -> Path:
        begin("evaluate")
        return Path(shutil.copytree(verifier, verifier.with_name("copy")))

    return Node(package, "params:seed", "verifier", name="prove_verifier", tags="evaluation")


def test_a_verifier_is_a_model_of_its_run_and_registered_where_that_is_asked_for(
    project: Project, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured[0].save_pretrained(tmp_path / "saved")
    project.run(packaging(tmp_path / "saved"))
    (run,) = project.runs("evaluate")
    (output,) = run.outputs.model_outputs
    assert project.run_of("experiment").outputs.model_outputs[0].model_id == output.model_id
    assert project.client.get_logged_model(output.model_id).status == "READY"
    assert not project.client.search_registered_models()
    asked = {"registered_model": "speaker", "alias": "champion"}
    project.run(packaging(tmp_path / "saved"), package=asked)
    project.run(packaging(tmp_path / "saved"), package=asked)
    version = project.client.get_model_version_by_alias("speaker", "champion")
    assert (str(version.version), version.run_id) == ("2", project.runs("evaluate")[-1].info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", project.uri)
    for uri in ("models:/speaker@champion", "models:/speaker/1", f"runs:/{run.info.run_id}/verifier"):
        assert load_verifier(uri).fingerprint == measured[0].fingerprint
    setting = project.folder / "conf/tiny/tracking.yml"
    setting.write_text(setting.read_text() + "log_verifier: false\n")
    project.run(packaging(tmp_path / "saved"), package=asked)
    assert project.client.get_registered_model("speaker").latest_versions[0].version == version.version


def test_an_alias_needs_a_registered_model(project: Project) -> None:
    with pytest.raises(ParameterError, match=r"parameter 'package': alias is 'champion': set registered_mo"):
        project.run(embedding(), package={"alias": "champion"})


def test_an_unknown_word_in_the_catalog_is_refused_before_anything_runs(project: Project) -> None:
    file = project.folder / "conf/base/catalog_training.yml"
    file.write_text(file.read_text().replace("mlflow: checkpoint", "mlflow: checkpiont"))
    with pytest.raises(
        DataError, match=r"pretrain\.checkpoint: .*'checkpiont': .*artifact, checkpoint, figure, metrics"
    ):
        project.run(training())
    assert not project.runs()
