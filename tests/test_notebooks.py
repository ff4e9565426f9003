from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.scoring.figures import det_figure, learning_curve_figure
from speaker_verification.scoring.summary import measure
from speaker_verification.tables import LEARNING_CURVE, SCORES

NOTEBOOK = json.loads((Path(__file__).parents[1] / "notebooks" / "results.ipynb").read_text())
CODE_CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def results() -> dict[str, Any]:
    """What the notebook reads, of random scores."""
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 60)
    speaker = rng.integers(0, 6, (120, 2))
    speaker[:, 1] = np.where(label == 1, speaker[:, 0], (speaker[:, 0] + 1) % 6)
    llr = 4.0 * label - 2 + rng.normal(size=120)
    values = {"label": label, "cosine": llr / 10, "as_norm": llr, "qmf": 1 / (1 + np.exp(-llr)), "llr": llr}
    ids = {
        side: [f"id{s}/s/1.wav" for s in speaker[:, place]] for place, side in enumerate(("enroll", "test"))
    }
    scores = SCORES.conform(
        pd.DataFrame({"trial_list": "vox1_o", "enroll_id": ids["enroll"], "test_id": ids["test"], **values})
    )
    curve = pd.DataFrame({"epoch": [0, 1], "metric": "validation.eer", "value": [40.0, 9.0]})
    return {
        "scores": scores,
        "metrics": measure(scores),
        "det_curves": det_figure(scores),
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
    scores = left["scores"]
    assert tables[1]["llr"].iloc[0] == scores.loc[scores["label"] == 1, "llr"].min()
    assert tables[2]["llr"].iloc[0] == scores.loc[scores["label"] == 0, "llr"].max()
    assert tables[3]["trials"].sum() == len(scores)
