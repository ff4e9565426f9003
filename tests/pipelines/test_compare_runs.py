"""Evaluations in data roots, and the pipeline that compares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import Version

from speaker_verification.common.errors import DataError
from speaker_verification.datasets import JsonDataset, TableDataset
from speaker_verification.pipelines.compare_runs import evaluations
from speaker_verification.pipelines.compare_runs.evaluations import (
    EvaluationAddress,
    find_evaluation,
    read_evaluation,
)
from speaker_verification.pipelines.compare_runs.nodes import (
    compare_error_rates,
    read_evaluations,
    write_comparison,
)
from speaker_verification.scoring.settings import CompareRunsSettings, ScoreSettings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.config import CONF
from tests.support.evaluations import VERDICT, compared_run

OLD, NEW, LATER = "2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z", "2026-03-01T00.00.00.000Z"


def save_evaluation(root: Path, version: str, gap: float, recipe: str, reported: str | None = None) -> None:
    """Write an evaluation as the pipelines do, with a report of the same or a later version."""
    verdict = replace(VERDICT, recipe=recipe, parameters={"model.layer_aggregation.kind": recipe})
    run = compared_run("", verdict, gap)
    metrics = compute_metrics(
        run.scores, run.calibration, run.utterances, ScoreSettings(bootstrap_resamples=0)
    )
    eers = {
        trial_list: {scoring: values["eer"] for scoring, values in scorings.items()}
        for trial_list, scorings in metrics.items()
    }
    for file, values, saved in (
        (evaluations.CALIBRATION_FILE, run.calibration.to_dict(), version),
        (evaluations.METRICS_FILE, metrics, version),
        (evaluations.VERDICT_FILE, {"eer": eers, **verdict.to_dict()}, reported or version),
    ):
        JsonDataset(filepath=str(root / file), version=Version(None, saved)).save(values)
    TableDataset(
        filepath=str(root / evaluations.SCORES_FILE), schema="scores", version=Version(None, version)
    ).save(run.scores)
    utterances = root / evaluations.UTTERANCES_FILE
    utterances.parent.mkdir(parents=True, exist_ok=True)
    run.utterances.to_parquet(utterances)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data root with a poor evaluation, and a good newer one that was reported on later."""
    save_evaluation(tmp_path / "data", OLD, 1.0, "lap_astp")
    save_evaluation(tmp_path / "data", NEW, 6.0, "mhfa_slt22", reported=LATER)
    return tmp_path / "data"


def test_files_lie_where_the_catalog_has_them() -> None:
    catalog: dict[str, Any] = {}
    for file in (CONF / "base").glob("catalog_*.yml"):
        catalog |= yaml.safe_load(file.read_text())
    for name, file in {
        "scores": evaluations.SCORES_FILE,
        "calibration": evaluations.CALIBRATION_FILE,
        "metrics": evaluations.METRICS_FILE,
        "verdict": evaluations.VERDICT_FILE,
        "utterances": evaluations.UTTERANCES_FILE,
    }.items():
        assert catalog[name]["filepath"] == f"${{globals:data_root}}/{file}"


def test_scores_go_with_the_report_on_them_whatever_its_version(root: Path) -> None:
    newest, old = (read_evaluation(find_evaluation(root, version)) for version in (None, OLD))
    assert (newest.name, old.name) == ("mhfa_slt22", "lap_astp")
    assert newest.address == f"{root}@{NEW}"


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"elsewhere' holds no 07_model_output/scores\.parquet"):
        find_evaluation(root / "elsewhere", None)
    with pytest.raises(DataError, match=f"no scores of version 'first': the newest are {NEW}, {OLD}"):
        find_evaluation(root, "first")
    save_evaluation(root, LATER, 3.0, "other", reported="2026-04-01T00.00.00.000Z")
    (root / evaluations.VERDICT_FILE / "2026-04-01T00.00.00.000Z" / "verdict.json").unlink()
    with pytest.raises(DataError, match=rf"no report .*@{LATER}: run --pipeline=report --load-versions"):
        find_evaluation(root, None)
    (root / evaluations.UTTERANCES_FILE).unlink()
    with pytest.raises(DataError, match=r"utterances\.parquet' is missing"):
        read_evaluation(find_evaluation(root, OLD))


def test_two_evaluations_of_one_data_root_are_compared(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = CompareRunsSettings(bootstrap_resamples=20)
    runs = read_evaluations([EvaluationAddress(root, OLD), EvaluationAddress(root)])
    rates, differences = compare_error_rates(runs, settings)
    assert set(rates["system"]) == {"lap_astp", "mhfa_slt22"}
    assert differences["is_clear"].all()
    assert "vox1_o: mhfa_slt22 against lap_astp: " in caplog.text
    page = write_comparison(runs, rates, differences, settings)
    assert "Comparison of lap_astp and mhfa_slt22" in page
