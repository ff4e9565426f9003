"""Scores and calibrations for the tests of what is measured and drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from speaker_verification.common.tables import SCORES
from speaker_verification.scoring import AffineCalibration, Calibration, OperatingPoint
from speaker_verification.scoring.calibration import ScoringCalibration
from speaker_verification.scoring.metrics import DecisionErrors


def calibration(llr: str = "qmf") -> Calibration:
    """Ten times the cosine is a log-likelihood ratio, as are AS-norm and QMF scores."""
    points = (OperatingPoint(0.01), OperatingPoint(0.05, c_miss=10.0))
    seen = (-9.5, 9.5)
    scorings = {
        "cosine": ScoringCalibration(AffineCalibration(10.0, 0.0), -1.0, 1.0, seen_llrs=seen),
        "as_norm": ScoringCalibration(AffineCalibration(1.0, 0.0), seen_llrs=seen),
        "qmf": ScoringCalibration(AffineCalibration(1.0, 0.0), is_llr=True, seen_llrs=seen),
    }
    misses = (dict(zip(scorings, counts, strict=True)) for counts in ((40, 30, 20), (12, 6, 3)))
    return Calibration(
        scorings=scorings,
        llr=llr,
        centre=(0.5, -1.0),
        operating_points=points,
        speakers="cohort",
        prior=0.5,
        num_trials=400,
        errors={
            point: {scoring: DecisionErrors(count, 200, 0, 200) for scoring, count in missed.items()}
            for point, missed in zip(points, misses, strict=True)
        },
    )


def scores_of(
    llr: np.ndarray | list[float], label: np.ndarray | list[int], trial_list: str | list[str] = "vox1_o"
) -> pd.DataFrame:
    """Scores of trials between six speakers that `calibration` takes to the given log-likelihood ratios."""
    llrs, labels = np.asarray(llr, dtype=float), np.asarray(label)
    enroll = np.arange(len(llrs)) % 6
    test = np.where(labels == 1, enroll, (enroll + 1) % 6)
    return SCORES.conform(
        pd.DataFrame(
            {
                "trial_list": trial_list,
                "enroll_id": [f"id{speaker}/s/1.wav" for speaker in enroll],
                "test_id": [f"id{speaker}/s/2.wav" for speaker in test],
                "label": labels,
                "cosine": llrs / 10,
                "as_norm": llrs,
                "qmf": llrs,
                "llr": llrs,
            }
        )
    )


def utterances_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The utterances of trials between VoxCeleb's ids, with their speakers."""
    ids = pd.concat([trials["enroll_id"], trials["test_id"]]).astype(str).unique()
    return pd.DataFrame({"utterance_id": ids, "speaker_id": [name.split("/")[0] for name in ids]})
