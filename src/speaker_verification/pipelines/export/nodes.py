"""Nodes that hand scores to other toolkits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.score_files import COLUMNS


def export_scores(scores: pd.DataFrame, calibration: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Split the scores into files named LIST.SCORING; those of QMF hold the published probability."""
    columns = Calibration.from_dict(calibration).exported(scores)
    return {
        f"{trial_list}.{name}": trials.assign(score=columns[name][trials.index])[list(COLUMNS)]
        for trial_list, trials in scores.groupby("trial_list", sort=False, observed=True)
        for name in columns
    }
