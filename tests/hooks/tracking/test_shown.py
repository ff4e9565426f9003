"""Names, figures, descriptions and durations of runs, as MLflow shows them."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pandas as pd
import pytest
from kedro.pipeline import Node
from mlflow.entities import Run
from plotly.graph_objects import Figure

from speaker_verification.common.errors import DataError
from speaker_verification.hooks.tracking import TrackingSettings, begin
from speaker_verification.hooks.tracking.log import RunLog
from speaker_verification.hooks.tracking.runs import TrackedRun
from speaker_verification.hooks.tracking.system_metrics import SystemMetricsSampler
from speaker_verification.reporting.figures.training import learning_curve_figure
from tests.support.tracked_project import Project, embedding, lines_in, measuring, road, training

SCORINGS = ("cosine", "as_norm", "qmf", "plda")
LISTS = ("vox1_o", "vox1_e", "vox1_h", "vox1_o_original")


def measuring_all(lists: tuple[str, ...] = LISTS) -> Node:
    def measure(*_: Any) -> dict[str, Any]:
        rates = {"eer": 1.23456, "eer_interval": [1.0, 2.0], "min_dcf_p01": 0.5, "cllr": 0.25}
        return {name: dict.fromkeys(SCORINGS, rates) for name in lists}

    return Node(measure, "embeddings", "metrics", name="measure_error_rates", tags="evaluation")


def stop(_: int) -> None:
    raise DataError("stopped")


def assert_children_lie_within(project: Project) -> None:
    parents = {run.info.run_id: run.info for run in project.runs("experiment")}
    for run in project.runs():
        if parent := parents.get(run.data.tags.get("mlflow.parentRunId", "")):
            assert parent.start_time <= run.info.start_time <= run.info.end_time <= parent.end_time


def test_an_experiment_shows_at_most_twelve_figures_and_its_evaluation_all(project: Project) -> None:
    project.run(*road(), embedding(), measuring_all())
    headlines = {f"eer/{name}/{scoring}" for name in LISTS[:3] for scoring in SCORINGS}
    shown = project.run_of("experiment").data.metrics
    assert shown == dict.fromkeys(headlines, 1.2346)
    assert len(shown) == 12
    everything = project.run_of("evaluate").data.metrics
    assert everything["eer/vox1_o_original/plda"] == 1.2346
    assert len(everything) == len(LISTS) * len(SCORINGS) * 3
    experiment = project.client.get_experiment(project.run_of("experiment").info.experiment_id)
    state = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.error-rates"])["state"])
    columns = {column for column in state["selectedColumns"] if column.startswith("metrics.")}
    assert columns == {f"metrics.`{name}`" for name in headlines}


def test_an_experiment_is_named_after_its_recipe_and_first_error_rate(project: Project) -> None:
    project.run(*road())
    assert project.run_of("experiment").info.run_name == "lap_astp seed 42"
    project.run(embedding(), measuring(33.444))
    project.run(embedding(), measuring(29.0))
    assert project.run_of("experiment").info.run_name == "lap_astp seed 42: 33.44 % vox1_o"
    assert {run.info.run_name for run in project.runs("evaluate")} == {"evaluate"}


def test_a_name_that_somebody_gave_stays(project: Project) -> None:
    project.run(*road())
    project.client.update_run(project.run_of("experiment").info.run_id, name="mine")
    project.run(embedding(), measuring(33.444))
    assert project.run_of("experiment").info.run_name == "mine: 33.44 % vox1_o"


def test_a_description_has_the_error_rates_and_where_files_are(project: Project) -> None:
    project.run(*road(), embedding(), measuring_all(("vox1_o",)))
    for stage in ("experiment", "evaluate"):
        note = project.run_of(stage).data.tags["mlflow.note.content"]
        assert "| vox1_o | qmf | 1.23 | 1.00 to 2.00 | 0.500 | 0.250 |" in note.replace("&emsp;", "")
        places = dict(re.findall(r"^- (.*): `(data/tiny/\S+)`$", note, re.MULTILINE))
        assert list(places) == ["model", "error rates", "tables, figures and report"]
        assert places["error rates"].endswith("/metrics.json")
        assert all((project.folder / path).exists() for path in places.values())


def test_the_last_line_has_the_addresses_of_the_runs(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(*road(), embedding(), measuring(33.444))
    info = project.run_of("experiment").info
    (told,) = [line for line in lines_in(caplog) if line.startswith("MLflow has")]
    assert told.splitlines()[0] == "MLflow has 'lap_astp seed 42: 33.44 % vox1_o'"
    assert f"/#/experiments/{info.experiment_id}/runs/{info.run_id}?" in told
    assert f"/#/experiments/{info.experiment_id}/runs?" in told
    assert f"--backend-store-uri {project.uri}" in told


def test_a_run_has_its_data_sets_and_so_has_its_experiment(project: Project) -> None:
    table = project.folder / "data/tiny/03_primary/trials.parquet"
    table.parent.mkdir(parents=True)
    names = {"trial_list": ["easy", "easy", "hard"], "label": [1, 0, 0]}
    pd.DataFrame({**names, "enroll_id": ["a", "b", "c"], "test_id": ["d", "e", "f"]}).to_parquet(table)
    project.run(*road())

    def embed(*_: Any) -> Any:
        begin("evaluate")
        return embedding().func()

    inputs = ["lmft.checkpoint", "trials", "embed.workspace"]
    embedded = Node(embed, inputs, "embeddings", name="embed_trial_utterances", tags="evaluation")
    project.run(embedded, measuring(33.444))
    project.run(embedded)
    for run in (*project.runs("evaluate"), project.run_of("experiment")):
        logged = {given.dataset.name: given for given in run.inputs.dataset_inputs}
        assert set(logged) == {"easy", "hard"}
        assert len(run.inputs.dataset_inputs) == 2
        assert json.loads(logged["easy"].dataset.profile) == {"num_rows": 2, "num_target": 1}
        assert json.loads(logged["easy"].dataset.source) == {"uri": "data/tiny/03_primary/trials.parquet"}
        assert [tag.value for tag in logged["easy"].tags] == ["test"]


def test_a_table_of_another_form_costs_no_result(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    catalog = project.folder / "conf/base/catalog_prepare.yml"
    text = "trials: {type: text.TextDataset, filepath: trials.txt}\n"
    catalog.write_text(re.sub(r"(?m)^trials:\n(  .*\n)+", text, catalog.read_text()))
    (project.folder / "trials.txt").write_text("1 a b")

    def measure(_: str) -> dict[str, Any]:
        return {"easy": {"cosine": {"eer": 33.44}}}

    project.run(Node(measure, "trials", "metrics", name="measure_error_rates", tags="evaluation"))
    run = project.run_of("evaluate")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"eer/easy/cosine": 33.44})
    assert [line for line in lines_in(caplog) if "lacks data sets of 'evaluate'" in line]


def test_runs_say_on_what_they_were_made(project: Project) -> None:
    project.run(*road(), embedding())
    project.run(measuring(30.0))
    measured = project.runs("evaluate")[1]
    for run in (project.run_of("experiment"), project.run_of("pretrain"), measured):
        tags = run.data.tags
        assert {"version.python", "version.torch", "device"} <= set(tags)
        assert tags["processes"] == "1"


def test_phases_last_within_their_experiment_whenever_they_are_run(project: Project) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    assert_children_lie_within(project)
    first = project.run_of("experiment").info
    project.run(*road())  # the first phase is resumed
    own = project.run_of("experiment").info
    assert (own.start_time, own.status) == (first.start_time, "FINISHED")
    assert own.end_time == project.run_of("lmft").info.end_time
    project.run(embedding(), measuring(33.44))
    assert project.run_of("experiment").info.end_time == project.run_of("evaluate").info.end_time
    assert_children_lie_within(project)


def test_a_phase_that_was_killed_lasted_until_its_last_epoch(project: Project) -> None:
    with pytest.raises(DataError):
        project.run(training(after_epoch=stop))
    for run in project.runs():
        project.client.update_run(run.info.run_id, status="RUNNING")  # as kill -9 leaves it
    (point,) = project.client.get_metric_history(project.run_of("pretrain").info.run_id, "training/loss")
    time.sleep(0.01)
    project.run(training(), pretrain={"resume": False})
    killed: list[Run] = [run for run in project.runs() if run.info.status == "KILLED"]
    assert {run.data.tags["stage"] for run in killed} == {"experiment", "pretrain"}
    assert all(point.timestamp <= run.info.end_time < point.timestamp + 10_000 for run in killed)
    assert_children_lie_within(project)


def test_curves_of_phases_have_the_same_names_and_steps(project: Project) -> None:
    project.run(*road())
    histories = [
        [(point.step, point.value) for point in project.client.get_metric_history(run.info.run_id, name)]
        for run in (project.run_of(phase) for phase in ("pretrain", "finetune", "lmft"))
        for name in run.data.metrics
        if not name.startswith("system/")
    ]
    assert histories == [[(0, 4.0), (1, 3.0), (2, 2.0)]] * 3


def test_a_figure_is_a_page_that_needs_no_other_file(project: Project) -> None:
    def draw(learning_curve: pd.DataFrame) -> Figure:
        return learning_curve_figure({"pretrain": learning_curve})

    figure = Node(
        draw, "pretrain.learning_curve", "pretrain.schedule", name="draw_schedule", namespace="pretrain"
    )
    project.run(training(), figure)
    run_id = project.run_of("pretrain").info.run_id
    page = (project.folder / "mlartifacts" / run_id / "artifacts/schedule.html").read_text()
    assert "<h1>Schedule of pretrain</h1>" in page
    assert "Plotly.newPlot" in page
    assert not re.search(r"<script[^>]* src=|<link", page)


def test_the_first_report_is_shown_with_the_experiment(project: Project) -> None:
    def reporting(page: str) -> Node:
        return Node(lambda _: page, "metrics", "report", name="write_report", tags="evaluation")

    project.run(*road())
    for page in ("<p>first</p>", "<p>second</p>"):
        project.run(embedding(), measuring(33.44), reporting(page))
    runs = [project.run_of("experiment"), *project.runs("evaluate")]
    pages = [project.folder / "mlartifacts" / run.info.run_id / "artifacts/report.html" for run in runs]
    assert [page.read_text() for page in pages] == ["<p>first</p>", "<p>first</p>", "<p>second</p>"]


def test_the_load_of_the_machine_is_sampled_while_a_phase_trains(project: Project) -> None:
    project.run(training())
    run = project.run_of("pretrain")
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
    tracking = project.folder / "conf/tiny/tracking.yml"
    tracking.write_text(tracking.read_text() + "system_metrics_seconds: null\n")
    project.run(training())
    second = project.runs("pretrain")[1]
    assert not [name for name in second.data.metrics if name.startswith("system/")]


def test_samples_of_a_resumed_run_come_after_its_first_ones(project: Project) -> None:
    log = RunLog(TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment="x").store(project.folder))
    run = TrackedRun(log, "phase", {}, {})
    for _ in range(2):
        run.open()
        sampler = SystemMetricsSampler(run, 60.0)
        sampler.start()
        sampler.stop()
        run_id = run.ids["run"]
        run = TrackedRun(log, "phase", {}, {}, known=run_id)
    assert run_id is not None
    history = project.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert [point.step for point in history] == [0, 1]


def test_a_machine_that_cannot_be_sampled_costs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.system_metrics.metrics.cpu_monitor.CPUMonitor.collect_metrics", stop)
    project.run(training())
    run = project.run_of("pretrain")
    assert run.info.status == "FINISHED"
    assert "system/disk_usage_megabytes" in run.data.metrics
    assert "system/cpu_utilization_percentage" not in run.data.metrics
