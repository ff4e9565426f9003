"""The inputs of an interrupted phase are not made again unless that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import ParameterError
from speaker_verification.hooks.resume import InterruptedPhaseHook
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.training.resume import resume_path
from tests.support.hooks import Session


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def interrupted(project: Path, phase: str, **parameters: object) -> Session:
    session = Session(project, InterruptedPhaseHook(), **parameters)
    folder = Path(session.catalog[f"{phase}.workspace"]._filepath) / "checkpoint"
    folder.mkdir(parents=True)
    resume_path(folder).write_bytes(b"state")
    return session


def test_a_run_that_would_make_its_start_again_is_refused_with_both_ways_out(
    pipelines: dict[str, Pipeline], project: Path
) -> None:
    session = interrupted(project, "lmft")
    for pipeline in (pipelines["__default__"], pipelines["finetune"] + pipelines["lmft"]):
        with pytest.raises(ParameterError, match=r"^lmft .*lmft\.train_phase.*lmft\.resume=false"):
            session.start(pipeline)


def test_the_phase_alone_and_phases_before_it_run(pipelines: dict[str, Pipeline], project: Path) -> None:
    session = interrupted(project, "lmft")
    for name in ("lmft", "pretrain", "finetune", "evaluate"):
        session.start(pipelines[name])


def test_an_encoder_that_is_made_again_is_no_new_start(pipelines: dict[str, Pipeline], project: Path) -> None:
    session = interrupted(project, "pretrain")
    assert "encoder" in pipelines["pretrain"].all_outputs()
    session.start(pipelines["pretrain"])


def test_a_phase_that_is_not_to_be_resumed_is_begun_anew(
    pipelines: dict[str, Pipeline], project: Path
) -> None:
    interrupted(project, "lmft", lmft={"resume": False}).start(pipelines["__default__"])


def test_where_nothing_was_interrupted_everything_runs(pipelines: dict[str, Pipeline], project: Path) -> None:
    Session(project, InterruptedPhaseHook()).start(pipelines["__default__"])


def test_inputs_that_are_there_are_not_made_again_where_only_missing_outputs_are_asked_for(
    pipelines: dict[str, Pipeline], project: Path
) -> None:
    session = interrupted(project, "finetune")
    road = pipelines["pretrain"] + pipelines["finetune"]
    with pytest.raises(ParameterError, match="finetune was interrupted"):
        session.start(road, only_missing_outputs=True)
    for name in pipelines["pretrain"].all_outputs():
        dataset = session.catalog[name]
        Path(dataset._get_save_path() if dataset._version else dataset._filepath).mkdir(parents=True)
    session.start(road, only_missing_outputs=True)
    with pytest.raises(ParameterError, match="finetune was interrupted"):
        session.start(road)
