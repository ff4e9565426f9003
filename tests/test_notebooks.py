from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.tables import LEARNING_CURVE, SPEAKERS
from speaker_verification.reporting.figures.scores import det_figure, histogram_figure, reliability_figure
from speaker_verification.reporting.figures.training import learning_curve_figure
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.curves import det_points, score_histograms
from speaker_verification.scoring.settings import ReportSettings, ScoreSettings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.scores import calibration, scores_of, utterances_of

NOTEBOOK = json.loads((Path(__file__).parents[1] / "notebooks" / "results.ipynb").read_text())
CODE_CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def results() -> dict[str, Any]:
    """Tables and metrics that the notebook reads, of random scores."""
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 60)
    scores = scores_of(4.0 * label - 2 + rng.normal(size=120), label)
    utterances = utterances_of(scores).assign(duration_seconds=5.0)
    curve = pd.DataFrame({"epoch": [0, 1], "metric": "validation.eer", "value": [40.0, 9.0]})
    fitted = calibration()
    metrics = compute_metrics(scores, fitted, utterances, ScoreSettings())
    return {
        "scores": scores,
        "utterances": utterances,
        "calibration": fitted.to_dict(),
        "metrics": metrics,
        "det_curves": det_figure(det_points(scores, fitted), metrics, fitted),
        "score_histograms": histogram_figure(score_histograms(scores, fitted), metrics, fitted),
        "reliability_curves": reliability_figure(reliability(scores, fitted)),
        "rates_by_group": rates_by_group(scores, fitted, utterances, SPEAKERS.empty(), ReportSettings()),
        "worst_trials": worst_trials(scores, 20),
        "learning_curves": learning_curve_figure({"pretrain": LEARNING_CURVE.conform(curve)}),
    }


def test_notebook_is_committed_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE_CELLS)


def test_notebook_runs_on_the_results_of_a_run() -> None:
    left = results()
    names: dict[str, Any] = {"catalog": SimpleNamespace(load=left.__getitem__)}
    shown = []
    for cell in CODE_CELLS:
        source = "".join(cell["source"])
        if source.startswith("%"):
            continue
        *statements, last = ast.parse(source).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    tables = [value for value in shown if isinstance(value, pd.DataFrame)]
    assert tables[0].index.tolist() == [("vox1_o", scoring) for scoring in ("cosine", "as_norm", "qmf")]
    assert tables[1]["p_target"].tolist() == [0.01] * 3 + [0.05] * 3
    assert tables[1]["reachable"].all()
    assert tables[1]["misses"].tolist() == [40, 30, 20, 12, 6, 3]
    assert tables[2][["num_target", "num_nontarget"]].to_numpy().tolist() == [[60, 60]]
    scores = left["scores"]
    assert tables[3]["llr"].iloc[0] == scores.loc[scores["label"] == 1, "llr"].min()
    assert tables[3]["llr"].iloc[20] == scores.loc[scores["label"] == 0, "llr"].max()
    assert tables[4]["trials"].sum() == len(scores)
    assert len(shown) == len(tables) + 4  # figures
