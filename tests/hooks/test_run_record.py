"""The record of a run that its report begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import MemoryDataset

from speaker_verification.config.phases import LAST_CHECKPOINT
from speaker_verification.hooks.run_record import RunRecordHook, training_record
from speaker_verification.training.kept_epochs import RANKING_FILE, RUN_FILE, TRAINED_BY
from tests.support.hooks import Session


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


def test_the_report_alone_gets_the_record_with_what_differs_from_the_recipe(project: Path) -> None:
    session = Session(project, RunRecordHook(), score={"top_n": 5})
    session.start(pipelines["export"])
    assert "run_record" not in session.catalog
    session.start(pipelines["report"])
    record = session.catalog.load("run_record")
    assert (record["recipe"], record["environment"]) == ("lap_astp", "tiny")
    assert (record["commit"], record["clean"]) == (None, None)  # the project's folder is no repository
    differing = {difference["parameter"]: difference for difference in record["differences"]}
    assert differing["score.top_n"] == {"parameter": "score.top_n", "published": "600", "used": "5"}
    assert "embed.model" not in differing


def test_a_model_from_elsewhere_has_no_recipe_and_no_differences_of_training(
    project: Path, tmp_path: Path
) -> None:
    session = Session(project, RunRecordHook(), embed={"model": str(tmp_path)})
    session.start(pipelines["report"])
    record = session.catalog.load("run_record")
    assert record["recipe"] is None
    groups = {difference["parameter"].split(".")[0] for difference in record["differences"]}
    assert groups <= {"embed", "score"}


def phase_trained_by(record: dict[str, Any], folder: Path) -> MemoryDataset:
    """Dataset of a phase whose only epoch has a record."""
    (folder / "epoch_01").mkdir()
    (folder / "epoch_01" / RUN_FILE).write_text(json.dumps({TRAINED_BY: record}))
    (folder / RANKING_FILE).write_text(json.dumps([{"epoch": 1, "folder": "epoch_01", "eer": 1.0}]))
    return MemoryDataset(folder)


def test_a_later_report_has_the_record_of_the_run_that_trained_and_names_both_commits(
    project: Path, tmp_path: Path
) -> None:
    session = Session(project, RunRecordHook(), finetune={"epochs": 7}, score={"top_n": 5})
    session.start(pipelines["finetune"])
    trained = training_record() | {"environment": "cluster", "commit": "29fc" * 10, "clean": True}
    later = Session(project, RunRecordHook(), finetune={"epochs": 3}, score={"top_n": 6})
    later.catalog[LAST_CHECKPOINT] = phase_trained_by(trained, tmp_path)
    later.start(pipelines["report"])
    assert training_record() == {}
    record = later.catalog.load("run_record")
    assert (record["environment"], record["commit"], record["clean"]) == ("cluster", "29fc" * 10, True)
    assert record["reported_by"] == {"commit": None, "clean": None}
    used = {difference["parameter"]: difference["used"] for difference in record["differences"]}
    assert (used["finetune.epochs"], used["score.top_n"]) == ("7", "6")
    assert record["parameters"]["finetune.epochs"] == "7"


def test_parameters_of_a_recipe_that_is_gone_are_reported_without_a_comparison(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(project, RunRecordHook())
    session.start(pipelines["finetune"])
    trained = training_record() | {"recipe": "forgotten"}
    session.catalog[LAST_CHECKPOINT] = phase_trained_by(trained, tmp_path)
    session.start(pipelines["report"])
    record = session.catalog.load("run_record")
    assert (record["recipe"], record["differences"]) == ("forgotten", [])
    assert "forgotten" in caplog.text
