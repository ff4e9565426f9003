"""Breakdown of errors: by group of trials, by log-likelihood ratio, and trial by trial."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from speaker_verification.common.tables import durations_known
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.embeddings import rows_of_ids
from speaker_verification.scoring.metrics import equal_error_rate, sort_trials
from speaker_verification.scoring.settings import ReportSettings

DIFFERENT, UNKNOWN = "different", "unknown"

_LLR_EDGES = np.arange(-10.0, 11.0)


def rates_by_group(
    scores: pd.DataFrame,
    calibration: Calibration,
    utterances: pd.DataFrame,
    speakers: pd.DataFrame,
    settings: ReportSettings,
) -> pd.DataFrame:
    """Error rates by group of trials.

    Trials are grouped by the duration of the shorter side, where durations are known, and, as far as the
    speakers are known, by gender and by nationality: one group for each value that both sides share, one for
    trials whose sides differ, and one for trials with an unknown side. Empty groups are left out.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.
        utterances: table of the UTTERANCES schema.
        speakers: table of the SPEAKERS schema, possibly incomplete or empty.
        settings: report settings.

    Returns:
        Columns trial_list, scoring, by, group, num_target, num_nontarget and, in %, eer of the group's own
        threshold, fnr and fpr at the threshold of the whole list's EER. Rates of too few trials are NaN.

    Raises:
        DataError: an utterance of a trial is not in the table.
    """
    rows = []
    for trial_list, trials in scores.groupby("trial_list", sort=False, observed=True):
        is_target = trials["label"].to_numpy() == 1
        groups = _groups_of(trials, utterances, speakers, settings.duration_edges)
        for scoring, values in calibration.scores_by_scoring(trials).items():
            in_order = sort_trials(values, is_target)  # once: groups of sorted scores are sorted in no time
            _, threshold = in_order.equal_error_rate()
            rising = values[in_order.order]
            for by, (names, of_trial) in groups.items():
                members = _members(of_trial[in_order.order], len(names))
                for group, inside in zip(names, members, strict=True):
                    if len(inside):
                        measured = _rates(
                            rising[inside], in_order.is_target[inside], threshold, settings.min_trials
                        )
                        rows.append((trial_list, scoring, by, group, *measured))
    columns = ["trial_list", "scoring", "by", "group", "num_target", "num_nontarget", "eer", "fnr", "fpr"]
    return pd.DataFrame(rows, columns=columns)


def _members(group_of_trial: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Rows of each group's trials, in their order."""
    order = np.argsort(group_of_trial, kind="stable")
    return np.split(order, np.searchsorted(group_of_trial[order], np.arange(1, num_groups)))


def _rates(
    values: np.ndarray, is_target: np.ndarray, threshold: float, min_trials: int
) -> tuple[int, int, float, float, float]:
    """Number of targets and non-targets, and EER, FNR and FPR in %, NaN where trials are too few."""
    accepted = values >= threshold
    num_target, num_nontarget = int(is_target.sum()), int((~is_target).sum())
    fnr = 100 * (~accepted[is_target]).mean() if num_target >= min_trials else np.nan
    fpr = 100 * accepted[~is_target].mean() if num_nontarget >= min_trials else np.nan
    both = min(num_target, num_nontarget) >= min_trials
    eer = equal_error_rate(values, is_target)[0] if both else np.nan
    return num_target, num_nontarget, eer, fnr, fpr


def _groups_of(
    trials: pd.DataFrame, utterances: pd.DataFrame, speakers: pd.DataFrame, edges: tuple[float, ...]
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Group names and the group index of each trial (trials,), by grouping."""
    both = pd.concat([trials["enroll_id"], trials["test_id"]], ignore_index=True)
    what = "of the trials are not in the table of utterances: prepare them first"
    sides = np.split(rows_of_ids(both, utterances, what), 2)
    groups: dict[str, tuple[list[str], np.ndarray]] = {}
    if durations_known(utterances):
        seconds = utterances["duration_seconds"].to_numpy()
        names = [f"under {edges[0]:g} s"]
        names += [f"{low:g} to {high:g} s" for low, high in pairwise(edges)]
        names += [f"from {edges[-1]:g} s"]
        shorter = np.minimum(*(seconds[rows] for rows in sides))
        groups["duration"] = names, np.digitize(shorter, edges).astype(np.int16)
    for by in ("gender", "nationality"):
        known = speakers.set_index("speaker_id")[by].where(lambda values: values != UNKNOWN)
        value, values = pd.factorize(utterances["speaker_id"].map(known), sort=True)  # -1: not known
        if len(values):
            enroll, test = (value[rows] for rows in sides)
            place = np.where(enroll == test, enroll, len(values))
            place = np.where((enroll < 0) | (test < 0), len(values) + 1, place)
            groups[by] = ([*values, DIFFERENT, UNKNOWN], place.astype(np.int16))
    return groups


def reliability(scores: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Reliability of log-likelihood ratios: given against empirical ratios, by bin.

    Args:
        scores: table of the SCORES schema.
        calibration: calibration of the scores.

    Returns:
        Columns trial_list, scoring, llr_from and llr_to (limits of the bin in nats; infinite at both
        ends), num_target, num_nontarget, mean_llr (of the bin's trials) and empirical_llr (natural log of the
        share of all targets in the bin over the share of all non-targets; NaN where one of them is 0).
        Empty bins are left out.
    """
    tables = []
    for trial_list, trials in scores.groupby("trial_list", sort=False, observed=True):
        is_target = trials["label"].to_numpy() == 1
        for scoring, llrs in calibration.log_likelihood_ratios(trials).items():
            place = np.digitize(llrs, _LLR_EDGES)
            num_bins = len(_LLR_EDGES) + 1
            targets = np.bincount(place[is_target], minlength=num_bins)
            nontargets = np.bincount(place[~is_target], minlength=num_bins)
            filled, both = targets + nontargets > 0, (targets > 0) & (nontargets > 0)
            empirical = np.full(num_bins, np.nan)
            empirical[both] = np.log(targets[both] / targets.sum()) - np.log(
                nontargets[both] / nontargets.sum()
            )
            sums = np.bincount(place, weights=llrs, minlength=num_bins)
            table = pd.DataFrame(
                {
                    "trial_list": trial_list,
                    "scoring": scoring,
                    "llr_from": np.concatenate([[-np.inf], _LLR_EDGES])[filled],
                    "llr_to": np.concatenate([_LLR_EDGES, [np.inf]])[filled],
                    "num_target": targets[filled],
                    "num_nontarget": nontargets[filled],
                    "mean_llr": sums[filled] / (targets + nontargets)[filled],
                    "empirical_llr": empirical[filled],
                }
            )
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def worst_trials(scores: pd.DataFrame, num_trials: int) -> pd.DataFrame:
    """Targets with the lowest and non-targets with the highest log-likelihood ratios, worst first.

    Args:
        scores: table of the SCORES schema.
        num_trials: number of trials of either class in each trial list.

    Returns:
        Rows of the scores, list after list, first the targets, then the non-targets.
    """
    worst = []
    for _, trials in scores.groupby("trial_list", sort=False, observed=True):
        is_target = trials["label"] == 1
        worst += [
            trials[is_target].nsmallest(num_trials, "llr"),
            trials[~is_target].nlargest(num_trials, "llr"),
        ]
    return pd.concat(worst, ignore_index=True)
