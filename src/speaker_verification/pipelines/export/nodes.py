"""Nodes that hand scores to other toolkits."""

from __future__ import annotations

import pandas as pd

from speaker_verification.scoring.score_files import COLUMNS

SCORES_OF_TRIALS = ("cosine", "as_norm", "qmf", "llr")


def export_scores(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Part the scores into files named LIST.SCORING."""
    return {
        f"{trial_list}.{scoring}": trials.rename(columns={scoring: "score"})[list(COLUMNS)]
        for trial_list, trials in scores.groupby("trial_list", sort=False, observed=True)
        for scoring in SCORES_OF_TRIALS
    }
