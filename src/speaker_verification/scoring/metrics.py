"""Error rates of verification scores. A trial is accepted when its score is at least the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speaker_verification.errors import DataError, ParameterError


@dataclass(frozen=True)
class SortedTrials:
    """Trials by rising score, with the thresholds that tell them apart.

    The first of the K thresholds is the lowest score, which accepts every trial; the last is the next
    number above the highest score, which accepts none.
    """

    order: np.ndarray  # (trials,), rows of the trials by rising score
    is_target: np.ndarray  # bool (trials,), in that order
    num_below: np.ndarray  # int64 (K,), trials below each threshold
    thresholds: np.ndarray  # float64 (K,), rising


def sort_trials(scores: npt.ArrayLike, labels: npt.ArrayLike) -> SortedTrials:
    """Sort trials by score; equal scores share a threshold, so they fall on one side of any.

    Args:
        scores: (trials,), higher means "same speaker".
        labels: (trials,), 1 target, 0 non-target.

    Raises:
        DataError: the arrays differ in shape, a score is not finite, a label is neither 0 nor 1, or only one
            class is there.
    """
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != classes.shape:
        raise DataError(f"scores {values.shape} and labels {classes.shape} must be rows of one length")
    if not np.isfinite(values).all():
        raise DataError(f"the score of trial {int(np.isfinite(values).argmin())} is not finite")
    is_target = classes == 1
    if not (is_target | (classes == 0)).all():
        raise DataError(
            f"labels are {np.unique(classes)[:10].tolist()}: 1 (target) and 0 (non-target) are known"
        )
    if is_target.all() or not is_target.any():
        raise DataError(
            f"{is_target.sum()} of {len(values)} trials are targets: error rates need targets and non-targets"
        )
    order = np.argsort(values, kind="stable")
    values = values[order]
    firsts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return SortedTrials(
        order,
        is_target[order],
        num_below=np.append(firsts, len(values)),
        thresholds=np.append(values[firsts], np.nextafter(values[-1], np.inf)),
    )


def _count_errors(trials: SortedTrials) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Misses and false acceptances (K,) at the thresholds, and the numbers of targets and non-targets."""
    misses = np.concatenate([[0], np.cumsum(trials.is_target)])[trials.num_below]
    num_target, num_nontarget = int(misses[-1]), len(trials.is_target) - int(misses[-1])
    return misses, num_nontarget - (trials.num_below - misses), num_target, num_nontarget


def error_rates(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False negative rate, false positive rate and threshold, (K,) each, thresholds rising.

    Raises:
        DataError: as `sort_trials`.
    """
    trials = sort_trials(scores, labels)
    misses, false_acceptances, num_target, num_nontarget = _count_errors(trials)
    return misses / num_target, false_acceptances / num_nontarget, trials.thresholds


def equal_error_rate(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Equal error rate in % and its threshold.

    Over all thresholds, where the false negative and the false positive rate differ least, the larger of
    the two. Of two thresholds that differ as much, the one with the lower result counts, so that changing
    the classes round changes nothing.

    Raises:
        DataError: as `sort_trials`.
    """
    trials = sort_trials(scores, labels)
    misses, false_acceptances, num_target, num_nontarget = _count_errors(trials)
    # Whole numbers, the rates times both totals: equal gaps are then equal to the last digit.
    fnr, fpr = misses * num_nontarget, false_acceptances * num_target
    gap, larger = np.abs(fnr - fpr), np.maximum(fnr, fpr)
    least = np.flatnonzero(gap == gap.min())
    best = least[larger[least].argmin()]
    return 100 * float(larger[best]) / (num_target * num_nontarget), float(trials.thresholds[best])


def min_detection_cost(
    scores: npt.ArrayLike, labels: npt.ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """Least normalised detection cost over all thresholds, and its threshold.

    The cost c_miss p_target FNR + c_fa (1 - p_target) FPR, divided by that of the better of accepting and of
    refusing every trial (NIST 2016 speaker recognition evaluation plan, equations 2 to 4).

    Args:
        scores: (trials,).
        labels: (trials,), 1 target, 0 non-target.
        p_target: probability of a target trial, between 0 and 1.
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false acceptance, above 0.

    Raises:
        DataError: as `sort_trials`.
        ParameterError: the probability or a cost is out of range.
    """
    if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0):
        raise ParameterError(
            f"p_target {p_target}, c_miss {c_miss}, c_fa {c_fa}: "
            "the probability must lie between 0 and 1, costs above 0"
        )
    fnr, fpr, thresholds = error_rates(scores, labels)
    miss_weight, false_acceptance_weight = c_miss * p_target, c_fa * (1 - p_target)
    cost = miss_weight * fnr + false_acceptance_weight * fpr
    best = int(cost.argmin())
    return float(cost[best]) / min(miss_weight, false_acceptance_weight), float(thresholds[best])
