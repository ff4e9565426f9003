"""Notebooks: committed without outputs, valid code, and one of them run on random scores.

`.ci/run` executes all of them on the demo's results.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speaker_verification.audio.files import write_audio
from speaker_verification.common.tables import SPEAKERS
from speaker_verification.scoring.breakdown import rates_by_group, worst_trials
from speaker_verification.scoring.settings import ReportSettings, ScoreSettings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.scores import calibration, scores_of, utterances_of

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_are_committed_without_outputs_and_with_valid_code(notebook: Path) -> None:
    cells = code_of(notebook)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    for cell in cells:
        if not (source := "".join(cell["source"])).startswith("%"):
            ast.parse(source)


def test_errors_are_counted_on_the_results_of_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 60)
    scores = scores_of(2.0 * label - 1 + rng.normal(size=120), label)
    write_audio(tmp_path / "sound.wav", rng.normal(size=16_000).astype(np.float32) / 10)
    utterances = utterances_of(scores).assign(duration_seconds=5.0, path=str(tmp_path / "sound.wav"))
    fitted, settings = calibration(), ScoreSettings(bootstrap_resamples=0)
    metrics = compute_metrics(scores, fitted, utterances, settings)
    left = {
        "scores": scores,
        "utterances": utterances,
        "calibration": fitted.to_dict(),
        "metrics": metrics,
        "rates_by_group": rates_by_group(scores, fitted, utterances, SPEAKERS.empty(), ReportSettings()),
        "worst_trials": worst_trials(scores, 20),
    }
    played: list[Any] = []
    names: dict[str, Any] = {"catalog": SimpleNamespace(load=left.__getitem__), "display": played.append}
    shown = []
    for cell in code_of(next(notebook for notebook in NOTEBOOKS if notebook.stem == "errors")):
        source = "".join(cell["source"])
        if source.startswith("%"):
            continue
        *statements, last = ast.parse(source).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    values, by_speaker, pairs, groups, costs = shown
    accepted = scores["qmf"] >= values["threshold_eer"]
    misses = [
        100 * (~accepted[(scores["label"] == 1) & scores["enroll_id"].str.startswith(f"id{speaker}/")]).mean()
        for speaker in (1, 3, 5)  # the speakers of the targets
    ]
    assert by_speaker["misses"].dropna().sort_index().tolist() == pytest.approx(misses, abs=0.05)
    assert pairs["trials"].sum() == 60
    assert pairs["accepted"].sum() == (accepted & (scores["label"] == 0)).sum()
    assert groups[["num_target", "num_nontarget"]].to_numpy().tolist() == [[60, 60]]
    assert costs.sum(axis=1).tolist() == pytest.approx(
        [metrics["vox1_o"]["qmf"][f"act_dcf_{point}"] for point in ("p01", "p05")]
    )
    assert len(played) == 4
