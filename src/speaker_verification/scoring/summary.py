"""Error rates of every trial list and scoring, as values and as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.scoring.bootstrap import equal_error_rate_interval
from speaker_verification.scoring.metrics import equal_error_rate, min_detection_cost

Metrics = dict[str, dict[str, dict[str, Any]]]

SCORINGS = ("cosine", "as_norm", "qmf")


def measure(scores: pd.DataFrame) -> Metrics:
    """Error rates by trial list and scoring.

    Args:
        scores: table of the SCORES schema.

    Returns:
        {trial_list: {scoring: {"eer": %, "eer_interval": [low, high] % at 95 %, "threshold_eer": score,
        "min_dcf_p01": cost, "threshold_p01": score, "min_dcf_p05": ..., "threshold_p05": ...,
        "num_target": n, "num_nontarget": n, "num_speakers": n}}}, plain Python numbers.

    Raises:
        DataError: a trial list holds one class only or a score that is not finite.
    """
    return {
        str(trial_list): _measure_list(rows)
        for trial_list, rows in scores.groupby("trial_list", sort=False, observed=True)
    }


def _measure_list(scores: pd.DataFrame) -> dict[str, dict[str, Any]]:
    labels = scores["label"].to_numpy()
    enroll_speakers, test_speakers, num_speakers = _speakers_of(scores)
    counts = {
        "num_target": int((labels == 1).sum()),
        "num_nontarget": int((labels == 0).sum()),
        "num_speakers": num_speakers,
    }
    measured = {}
    for scoring in SCORINGS:
        # QMF's probability is its log-likelihood ratio through a rising function, so the error rates are the
        # same; the ratio keeps apart what the probability rounds to 1. Thresholds are given as probabilities.
        values = scores["llr" if scoring == "qmf" else scoring].to_numpy()
        eer, threshold_eer = equal_error_rate(values, labels)
        min_dcf_p01, threshold_p01 = min_detection_cost(values, labels, p_target=0.01)
        min_dcf_p05, threshold_p05 = min_detection_cost(values, labels, p_target=0.05)
        thresholds = np.array([threshold_eer, threshold_p01, threshold_p05])
        if scoring == "qmf":
            thresholds = _probability(thresholds)
        measured[scoring] = {
            "eer": eer,
            "eer_interval": list(equal_error_rate_interval(values, labels, enroll_speakers, test_speakers)),
            "min_dcf_p01": min_dcf_p01,
            "min_dcf_p05": min_dcf_p05,
            **dict(
                zip(("threshold_eer", "threshold_p01", "threshold_p05"), thresholds.tolist(), strict=True)
            ),
            **counts,
        }
    return measured


def _probability(log_likelihood_ratio: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(log_likelihood_ratio)


def _speakers_of(scores: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Speaker of each trial's two sides (trials,) as numbers from 0, and how many there are."""
    utterance, utterance_ids = pd.factorize(pd.concat([scores["enroll_id"], scores["test_id"]]))
    speaker_of_utterance, speakers = pd.factorize(pd.Series(utterance_ids).str.split("/").str[0])
    enroll_speakers, test_speakers = np.split(speaker_of_utterance[utterance], 2)
    return enroll_speakers, test_speakers, len(speakers)


def format_table(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The metrics as lines of text, one for each trial list and scoring, narrow enough for a logged terminal.

    DCF is the least normalised detection cost at that target prior; "at EER" is the EER's threshold.
    """
    header = (
        "trial list",
        "trials",
        "scoring",
        "EER %",
        "95 % range",
        "DCF 0.01",
        "DCF 0.05",
        "at EER",
    )
    lines = [
        (
            trial_list,
            f"{values['num_target'] + values['num_nontarget']:,}",
            scoring,
            f"{values['eer']:.3f}",
            "{:.2f}-{:.2f}".format(*values["eer_interval"]),
            f"{values['min_dcf_p01']:.4f}",
            f"{values['min_dcf_p05']:.4f}",
            f"{values['threshold_eer']:.4f}",
        )
        for trial_list, scorings in metrics.items()
        for scoring, values in scorings.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    is_text = (True, False, True, False, False, False, False, False)

    def aligned(cells: tuple[str, ...]) -> str:
        columns = zip(cells, widths, is_text, strict=True)
        return "  ".join(c.ljust(width) if text else c.rjust(width) for c, width, text in columns).rstrip()

    return (
        "\n".join([aligned(header), "  ".join("-" * width for width in widths), *map(aligned, lines)]) + "\n"
    )
