"""Curves of scores, thinned to a few hundred points: detection error trade-off and histograms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.metrics import SortedTrials, sort_trials

_POINTS_PER_CURVE = 300
_BINS = (20, 80)  # the square root of the number of trials, within these limits


def det_points(scores: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Detection error trade-off of every trial list and scoring.

    Source: A. Martin et al., "The DET Curve in Assessment of Detection Task Performance", Eurospeech 1997.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.

    Returns:
        Columns trial_list, scoring and, in %, fpr and fnr: both above 0 and below 100, evenly spaced along
        the curve on normal-deviate axes. Classes that a threshold separates have no points.

    Raises:
        DataError: a trial list holds one class only or a score that is not finite.
    """
    columns = ["trial_list", "scoring", "fpr", "fnr"]
    tables = [pd.DataFrame(columns=columns).astype({"fpr": float, "fnr": float})]
    for trial_list, rows in scores.groupby("trial_list", sort=False, observed=True):
        labels = rows["label"].to_numpy()
        for scoring, values in calibration.scores_by_scoring(rows).items():
            curve = det_curve(sort_trials(values, labels))
            tables.append(curve.assign(trial_list=trial_list, scoring=scoring)[columns])
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def det_curve(trials: SortedTrials) -> pd.DataFrame:
    """Detection error trade-off of one set of scores.

    Returns:
        Columns fpr and fnr of `det_points`.
    """
    from scipy.special import ndtri

    fnr, fpr = trials.rates()
    drawn = (fnr > 0) & (fnr < 1) & (fpr > 0) & (fpr < 1)
    fnr, fpr = fnr[drawn], fpr[drawn]
    if len(fnr):
        along = ndtri(fnr) - ndtri(fpr)  # rises with the threshold
        points = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], _POINTS_PER_CURVE)))
        fpr, fnr = fpr[points], fnr[points]
    return pd.DataFrame({"fpr": 100 * fpr, "fnr": 100 * fnr})


def score_histograms(scores: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Score densities of targets and non-targets of every trial list and scoring.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.

    Returns:
        Columns trial_list, scoring, score_from and score_to (limits of the bin), target and nontarget
        (densities, each of integral 1).
    """
    tables = []
    for trial_list, rows in scores.groupby("trial_list", sort=False, observed=True):
        is_target = rows["label"].to_numpy() == 1
        for scoring, values in calibration.scores_by_scoring(rows).items():
            edges = np.histogram_bin_edges(values, bins=int(np.clip(np.sqrt(len(values)), *_BINS)))
            target, nontarget = (
                np.histogram(values[members], edges, density=True)[0] for members in (is_target, ~is_target)
            )
            tables.append(
                pd.DataFrame(
                    {
                        "trial_list": trial_list,
                        "scoring": scoring,
                        "score_from": edges[:-1],
                        "score_to": edges[1:],
                        "target": target,
                        "nontarget": nontarget,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)
