"""Small evaluations for the tests of reports and comparisons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.tables import LEARNING_CURVE
from speaker_verification.reporting.comparison import ComparedRun
from speaker_verification.reporting.evaluation import Evaluation
from speaker_verification.reporting.layer_weights import LayerWeights
from speaker_verification.reporting.verdict import EvaluatedModel, Verdict
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.curves import det_points, score_histograms
from speaker_verification.scoring.open_set import RATES
from speaker_verification.scoring.settings import ReportSettings, ScoreSettings
from speaker_verification.scoring.summary import compute_metrics
from tests.support.scores import calibration, scores_of, utterances_of

VERDICT = Verdict(
    recipe="lap_astp",
    environment="mini",
    commit="0123456789abcdef",
    clean=True,
    version="0.1.0",
    llr="qmf",
    model=EvaluatedModel("epoch_03", "microsoft/wavlm-large", True, "lap", "astp", 512, seed=42),
    corpora={"trained on": ["voxceleb (vox2-dev)"], "trials": ["voxceleb (vox1-test)"]},
    synthetic=False,
    unofficial=[],
)


def small_evaluation(**changes: Any) -> Evaluation:
    """An evaluation of random scores on vox1_o and vox1_h, with everything that a report shows."""
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 300)
    one, other = (3.0 * label - 1.5 + rng.normal(size=600) for _ in range(2))
    scores = scores_of(
        np.concatenate([one, other]), np.tile(label, 2), ["vox1_o"] * len(one) + ["vox1_h"] * len(other)
    )
    fitted, utterances = calibration(), utterances_of(scores).assign(duration_seconds=5.0)
    speakers = pd.DataFrame({"speaker_id": ["id0", "id1"], "gender": "f", "nationality": "Iceland"})
    metrics = compute_metrics(scores, fitted, utterances, ScoreSettings(bootstrap_resamples=20))
    curve = pd.DataFrame({"epoch": [0, 1, 1], "metric": ["validation.eer"] * 2 + ["loss"], "value": 9.0})
    thresholds = pd.Series([-1.0, 0.0, 1.0], name="threshold")
    rates = {f"{name}{end}": 25.0 for name in RATES for end in ("", "_low", "_high")}
    mean = pd.DataFrame({"sequence": "frames", "state": [0, 1], "weight": [0.25, 0.75]})
    settings = ReportSettings(min_trials=5)
    evaluation = Evaluation(
        verdict=VERDICT,
        metrics=metrics,
        calibration=fitted,
        det_points=det_points(scores, fitted),
        histogram_bins=score_histograms(scores, fitted),
        reliability=reliability(scores, fitted),
        rates_by_group=rates_by_group(scores, fitted, utterances, speakers, settings),
        worst_trials=worst_trials(scores, 3),
        open_set_rates=pd.DataFrame(thresholds).assign(**rates),
        layer_weights=mean.assign(low=mean["weight"], high=mean["weight"]),
        layer_weights_over_time=LayerWeights.unknown().over_time,
        learning_curves={"pretrain": LEARNING_CURVE.conform(curve)},
    )
    return replace(evaluation, **changes)


def foreign_evaluation() -> Evaluation:
    """The same of a model from elsewhere: no recipe, no training, no model at hand."""
    evaluation, unknown = small_evaluation(), LayerWeights.unknown()
    verdict = replace(VERDICT, recipe=None, model=None, commit=None, clean=None, corpora={"trained on": []})
    return replace(
        evaluation,
        verdict=verdict,
        layer_weights=unknown.mean,
        layer_weights_over_time=unknown.over_time,
        open_set_rates=evaluation.open_set_rates.head(0),
        learning_curves={"pretrain": LEARNING_CURVE.empty()},
    )


def compared_run(address: str, verdict: Verdict, gap: float = 3.0, noise: int = 0) -> ComparedRun:
    """An evaluation of vox1_o and vox1_h whose targets score `gap` above the non-targets."""
    rng = np.random.default_rng(noise)
    label = np.tile([0, 1], 300)
    tables = [
        scores_of(gap * label + rng.normal(size=len(label)), label, trial_list)
        for trial_list in ("vox1_o", "vox1_h")
    ]
    scores = pd.concat(tables, ignore_index=True)
    numbered = scores.groupby("trial_list", observed=True).cumcount().astype(str)
    scores["test_id"] = scores["test_id"].str.replace("2.wav", "") + numbered + ".wav"
    return ComparedRun(address, verdict, scores, calibration(), utterances_of(scores))
