"""Addresses of the evaluations that are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines
from mlflow import MlflowClient

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.hooks.compared import ComparedHook
from speaker_verification.hooks.tracking.runs import ADDRESS_TAG, PARENT_TAG
from speaker_verification.pipelines.compare_runs.evaluations import EvaluationAddress
from tests.support.hooks import Session

VERSION = "2026-01-01T00.00.00.000Z"


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


def addresses_of(project: Path, *runs: str) -> list[EvaluationAddress]:
    session = Session(project, ComparedHook(), compare_runs={"runs": list(runs)})
    session.start(pipelines["compare_runs"])
    addresses: list[EvaluationAddress] = session.catalog.load("compared_evaluations")
    return addresses


def test_evaluations_are_named_by_data_root_and_version(project: Path) -> None:
    assert addresses_of(project, "data/one", f"/disk/two@{VERSION}") == [
        (project / "data" / "one", None, None),
        (Path("/disk/two"), VERSION, None),
    ]


@pytest.mark.parametrize("runs", [[], ["data/one"], ["data/one", "data/one"]])
def test_fewer_than_two_evaluations_are_refused(project: Path, runs: list[str]) -> None:
    with pytest.raises(ParameterError, match=r"compare_runs\.runs names"):
        addresses_of(project, *runs)


def test_experiments_of_mlflow_are_their_newest_evaluations(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/tracked.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("speaker-verification", (tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment).info.run_id
    children = []
    for started, stage, address in (
        (3, "finetune", None),
        (2, "evaluate", f"data/demo@{VERSION}"),
        (1, "evaluate", "data/demo@an-earlier-one"),
    ):
        tags = {PARENT_TAG: parent, "stage": stage} | ({ADDRESS_TAG: address} if address else {})
        children.append(client.create_run(experiment, start_time=started, tags=tags).info.run_id)
    found = addresses_of(project, parent, children[2])
    assert found == [
        (project / "data/demo", VERSION, None),
        (project / "data/demo", "an-earlier-one", None),
    ]
    with pytest.raises(DataError, match=f"run {children[0]} does not say where its scores are"):
        addresses_of(project, parent, children[0])
    with pytest.raises(DataError, match=f"does not give run {'0' * 32}"):
        addresses_of(project, parent, "0" * 32)
