"""Log of a run, and the estimate of the whole recipe by a shortened one."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.hooks import hook_impl
from kedro.framework.project import configure_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro_datasets.text import TextDataset

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import PHASES
from speaker_verification.hooks.full_run import StageUse, format_estimate, size_of
from speaker_verification.hooks.run_log import RunLogHook, later_phases, next_pipelines
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.settings import CONFIG_LOADER_ARGS
from speaker_verification.training.timing import PhaseTimes
from tests.support.config import CONF
from tests.support.hooks import Session
from tests.support.project import copy_project
from tests.support.training import phase_settings

PREPARED = {
    "training_utterances", "validation_utterances", "validation_trials", "utterances", "trials", "speakers",
    "trial_lists", "noise_clips", "rirs", "rejected_utterances", "rejected_augmentation",
}  # fmt: skip
FOLDERS = {"mirror_folder", "audio_folder", "augmentation_folder", "encoders_folder", "pretrain.workspace"}


class Other:
    """Another hook, whose lines come before those of the log."""

    @hook_impl
    def after_pipeline_run(self) -> None:
        logging.getLogger("speaker_verification").info("runs: http://localhost:5000")


def run(project: Path, pipeline: Pipeline, **parameters: Any) -> tuple[RunLogHook, Session]:
    """Run a pipeline as a session of Kedro does."""
    hook = RunLogHook()
    session = Session(project, hook, Other(), **parameters)
    run_params = {"env": "tiny", "runtime_params": parameters}
    session.start(pipeline, **run_params)
    try:
        SequentialRunner().run(pipeline, session.catalog, session.manager)
    except Exception as error:
        session.manager.hook.on_pipeline_error(
            error=error, run_params=run_params, pipeline=pipeline, catalog=session.catalog
        )
        raise
    session.manager.hook.after_pipeline_run(
        run_params=run_params, run_result={}, pipeline=pipeline, catalog=session.catalog
    )
    return hook, session


def node(function: Any, inputs: Any, outputs: Any, name: str, namespace: str | None = None) -> Node:
    return Node(function, inputs, outputs, name=name, namespace=namespace)


@pytest.fixture
def own(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The lines of the project alone."""
    configure_project("speaker_verification")
    caplog.set_level(logging.INFO, logger="speaker_verification")
    logging.getLogger("kedro").setLevel(logging.WARNING)
    return caplog


def test_a_node_gets_one_line_and_the_last_lines_tell_where_to_look_and_what_to_run_next(
    tmp_path: Path, own: pytest.LogCaptureFixture
) -> None:
    project = copy_project(tmp_path)
    pipeline = Pipeline(
        [
            node(lambda: ("a", "b"), None, ["left", "right"], "halve", "scoring.score"),
            node(lambda left: None, "left", None, "throw_away"),
        ]
    )
    run(project, pipeline, recipe="mhfa_slt22", finetune={"monitor": ["vox1_o", "vox1_e"]})
    first, second, others, done = own.messages
    assert re.fullmatch(r"score: halve  \d.* s", first)
    assert re.fullmatch(r"throw_away  \d.* s", second)
    assert others == "runs: http://localhost:5000"
    assert re.fullmatch(rf"done in \d.* s: results are in {project}/data/tiny", done)


def test_a_failed_run_ends_with_its_error(tmp_path: Path, own: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(copy_project(tmp_path), Pipeline([node(fail, None, None, "fail", "prepare")]))
    assert not [line for line in own.messages if not line.startswith("Node fail")]


def made(*names: set[str]) -> DataCatalog:
    return DataCatalog({name: MemoryDataset(name) for name in set().union(*names)})


@pytest.mark.parametrize(
    ("ran", "there", "following"),
    [
        ("prepare", PREPARED | FOLDERS, ["pretrain"]),
        ("pretrain", PREPARED | {"encoder", "pretrain.checkpoint"}, ["finetune"]),
        ("finetune", PREPARED | {"encoder", "finetune.checkpoint"}, ["lmft"]),
        ("lmft", PREPARED | {"lmft.checkpoint", "lmft.learning_curve"}, ["evaluate"]),
        ("embed", PREPARED | {"embeddings", "cohort_embeddings", "lmft.checkpoint"}, ["score"]),
        ("__default__", PREPARED | {"scores", "calibration"}, ["export"]),
    ],
)  # fmt: skip
def test_what_to_run_next_follows_from_the_registry_and_from_what_is_there(
    ran: str, there: set[str], following: list[str], own: pytest.LogCaptureFixture
) -> None:
    always = {f"{phase}.{name}" for phase in PHASES for name in ("job", "workspace")} | {"embed.workspace"}
    assert next_pipelines(register_pipelines()[ran], made(there, always), None) == following


def test_what_comes_before_a_run_is_not_next(own: pytest.LogCaptureFixture) -> None:
    ran = register_pipelines()["prepare"] + register_pipelines()["lmft"]
    there = made(
        PREPARED, FOLDERS, {"encoder", "pretrain.checkpoint", "finetune.checkpoint", "lmft.checkpoint"}
    )
    assert not {"pretrain", "finetune"} & set(next_pipelines(ran, there, None))


def test_phases_before_one_with_a_start_are_not_next(own: pytest.LogCaptureFixture) -> None:
    there = made(PREPARED, FOLDERS, {f"{phase}.{name}" for phase in PHASES for name in ("job", "workspace")})
    for started in ("finetune", "lmft"):
        assert next_pipelines(register_pipelines()["prepare"], there, None, [started]) == [started]


def test_after_an_evaluation_its_scores_are_packaged_reported_or_exported(
    own: pytest.LogCaptureFixture,
) -> None:
    evaluated = register_pipelines()["evaluate"].all_outputs() | {"lmft.checkpoint", "package.workspace"}
    following = next_pipelines(register_pipelines()["evaluate"], made(PREPARED, evaluated), None)
    assert following == ["package", "report", "export"]  # the learning curves may be missing


def test_after_a_compression_the_smaller_model_is_evaluated(
    tmp_path: Path, own: pytest.LogCaptureFixture
) -> None:
    session = Session(copy_project(tmp_path), RunLogHook())
    session.catalog["compress.checkpoint"] = TextDataset(filepath=str(tmp_path / "small"))
    pipeline = Pipeline([node(lambda: "a", None, "compress.checkpoint", "compress")])
    run_params = {"env": "tiny", "runtime_params": {"score": {"top_n": 4}}}
    session.start(pipeline, **run_params)
    SequentialRunner().run(pipeline, session.catalog, session.manager)
    session.manager.hook.after_pipeline_run(
        run_params=run_params, run_result={}, pipeline=pipeline, catalog=session.catalog
    )
    command = f"kedro run --env=tiny --pipeline=evaluate --params=score.top_n=4,embed.model={tmp_path}/small"
    assert own.messages[-1] == f"next: {command}"


def test_the_next_command_has_the_environment_and_the_parameters_of_the_run(
    tmp_path: Path, own: pytest.LogCaptureFixture
) -> None:
    project = copy_project(tmp_path)
    (project / "data/tiny/07_model_output").mkdir(parents=True)
    pipeline = Pipeline([node(lambda: {"a": 1}, None, "calibration", "calibrate")])
    hook = RunLogHook()
    session = Session(project, hook)
    session.catalog["scores"] = MemoryDataset("scores")
    given = {"recipe": "mhfa_slt22", "finetune": {"epochs": 2, "monitor": ["vox1_o", "vox1_e"]}}
    run_params = {"env": "tiny", "runtime_params": given}
    session.start(pipeline, **run_params)
    SequentialRunner().run(pipeline, session.catalog, session.manager)
    own.clear()
    session.manager.hook.after_pipeline_run(
        run_params=run_params, run_result={}, pipeline=pipeline, catalog=session.catalog
    )
    parameters = 'recipe=mhfa_slt22,finetune.epochs=2,finetune.monitor=["vox1_o", "vox1_e"]'
    assert own.messages[-1] == f"next: kedro run --env=tiny --pipeline=export '--params={parameters}'"


def test_after_a_verifier_is_packaged_it_is_what_to_try_next(
    tmp_path: Path, own: pytest.LogCaptureFixture
) -> None:
    project = copy_project(tmp_path)
    hook = RunLogHook()
    session = Session(project, hook)
    session.catalog["verifier"] = TextDataset(filepath=str(tmp_path / "verifier"))
    session.catalog["scores"] = MemoryDataset("scores")
    pipeline = Pipeline([node(lambda: ("a", "b"), None, ["verifier", "calibration"], "package")])
    session.start(pipeline)
    SequentialRunner().run(pipeline, session.catalog, session.manager)
    session.manager.hook.after_pipeline_run(
        run_params={}, run_result={}, pipeline=pipeline, catalog=session.catalog
    )
    command = f"speaker-verification verify --model={tmp_path}/verifier ENROL.wav TEST.wav"
    assert own.messages[-1] == f"next: {command} (or export)"


def test_a_run_knows_the_phases_that_follow_one(tmp_path: Path) -> None:
    hook = RunLogHook()
    session = Session(copy_project(tmp_path), hook, lmft={"skip": True})
    registry = register_pipelines()
    session.start(registry["pretrain"] + registry["finetune"] + registry["lmft"])
    assert list(later_phases("pretrain")) == ["finetune"]
    assert later_phases("pretrain")["finetune"].epochs == 2
    assert not later_phases("finetune")
    session.manager.hook.on_pipeline_error(
        error=ValueError(), run_params={}, pipeline=registry["pretrain"], catalog=session.catalog
    )
    assert not later_phases("pretrain")


def test_the_whole_recipe_is_known_beside_the_shortened_one() -> None:
    loader = RecipeConfigLoader(
        str(CONF), env="demo", runtime_params={"fast_dev_run": 3, "lmft": {"epochs": 4}}, **CONFIG_LOADER_ARGS
    )
    quick, full = loader.typed_parameters.phases, loader.full_parameters.phases
    shortened = {"pretrain": (2, 3), "finetune": (2, 3), "lmft": (4, 3), "compress": (2, 3)}
    whole = {"pretrain": (2, 10), "finetune": (5, 60), "lmft": (4, 15), "compress": (12, 60)}
    for phases, expected in ((quick, shortened), (full, whole)):
        assert {name: (one.epochs, one.steps_per_epoch) for name, one in phases.items()} == expected


def test_a_shortened_phase_gives_the_whole_ones_time_and_disk() -> None:
    times = PhaseTimes([6.0, 5.0], [[1.0] * 5, [1.0] * 5], [2.0, 2.0], examples_of_pass=600)
    quick = phase_settings(epochs=2, steps_per_epoch=5, keep_checkpoints=3)
    full = phase_settings(
        epochs=10, steps_per_epoch=None, batch_size=6, keep_checkpoints=3, save_every_steps=None
    )
    use = StageUse(20.0, memory_bytes=7, disk_bytes=1000, checkpoint_bytes=800)
    # 5 s around the epochs and 1 s to start workers; ten epochs of 100 steps and 2 s.
    assert use.in_full(quick, full, times) == StageUse(
        5 + 1 + 10 * (100 + 2),
        memory_bytes=7,
        disk_bytes=200 + 3 * 400,  # three epochs are kept in place of two
        checkpoint_bytes=1200,
        epochs=10,
        steps_per_epoch=100,
        step_seconds=1.0,
    )


def test_the_estimate_is_a_table_with_totals() -> None:
    stages = {
        "prepare": StageUse(360.0, 1_200_000_000, 0, 5_000_000),
        "finetune": StageUse(7200.0, 2_000_000_000, 0, 1_000_000_000, 9, 10, 60, 1.25),
    }
    assert format_estimate(stages).splitlines() == [
        "stage     epochs  steps  s a step     time  memory GB  disk GB",
        "--------  ------  -----  --------  -------  ---------  -------",
        "prepare                            6.0 min        1.2    0.005",
        "finetune      10     60     1.250    2.0 h        2.0    1.000",
        "total                                2.1 h        2.0    1.005",
    ]


def test_sizes_are_those_of_all_files_in_folders(tmp_path: Path) -> None:
    (tmp_path / "folder/inside").mkdir(parents=True)
    (tmp_path / "folder/inside/one").write_bytes(b"x" * 10)
    (tmp_path / "folder/two").write_bytes(b"x" * 5)
    (tmp_path / "three").write_bytes(b"x")
    assert size_of([tmp_path / "folder", tmp_path / "three", tmp_path / "absent"]) == 16


def test_a_shortened_run_saves_its_estimate(tmp_path: Path, own: pytest.LogCaptureFixture) -> None:
    project = copy_project(tmp_path)
    pipeline = Pipeline([node(lambda: {"a": 1}, None, "calibration", "calibrate", "scoring.score")])
    run(project, pipeline, fast_dev_run=2)
    saved = json.loads((project / "data/tiny/08_reporting/full_run_estimate.json").read_text())
    assert set(saved) == {"score"}
    size = len('{\n  "a": 1\n}\n')
    assert saved["score"]["disk_bytes"] == size
    assert saved["score"]["memory_bytes"] > 10_000_000
    (table,) = [line for line in own.messages if line.startswith("Estimate")]
    assert table.splitlines()[-1].startswith("total")


def test_the_path_of_the_report_is_the_last_line_of_a_run_that_has_made_it(
    tmp_path: Path, own: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline([node(lambda: "<html>", None, "report", "write_report", "report")])
    hook = RunLogHook()
    session = Session(copy_project(tmp_path), Other(), hook)
    session.catalog["report"] = TextDataset(filepath=str(tmp_path / "report.html"))
    session.start(pipeline)
    SequentialRunner().run(pipeline, session.catalog, session.manager)
    session.manager.hook.after_pipeline_run(
        run_params={}, run_result={}, pipeline=pipeline, catalog=session.catalog
    )
    assert own.messages[-1] == f"report: {tmp_path}/report.html"
