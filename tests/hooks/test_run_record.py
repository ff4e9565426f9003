"""The record of a run that its report begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines

from speaker_verification.hooks.run_record import RunRecordHook
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
