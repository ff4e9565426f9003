"""The record of a run that its report begins with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines

from speaker_verification.hooks.run_record import RunRecordHook, revision
from tests.support.hooks import Session


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_named_and_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert revision(tmp_path) == (None, None)
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    (tmp_path / "not_tracked").write_text("1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert revision(tmp_path) == (commit, True)
    (tmp_path / "a").write_text("2")
    assert revision(tmp_path) == (commit, False)
    assert revision(tmp_path / "absent") == (None, None)


def test_the_report_alone_gets_the_record_with_what_differs_from_the_recipe(project: Path) -> None:
    session = Session(project, RunRecordHook(), score={"top_n": 5})
    session.start(pipelines["export"])
    assert "run_record" not in session.catalog
    session.start(pipelines["report"])
    record = session.catalog.load("run_record")
    assert (record["recipe"], record["environment"]) == ("lap_astp", "tiny")
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
