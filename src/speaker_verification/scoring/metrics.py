"""Error rates and costs of scores. A trial is accepted when its score is at least the threshold."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.blocks import row_blocks

Rates = TypeVar("Rates", float, np.ndarray)

_THRESHOLDS_PER_BLOCK = 2**18


@dataclass(frozen=True)
class OperatingPoint:
    """What decisions are for: how likely a target trial is, and what either error costs.

    Source: NIST 2016 speaker recognition evaluation plan, equations 2 to 4.

    Attributes:
        p_target: probability of a target trial, between 0 and 1.
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false acceptance, above 0.

    Raises:
        ParameterError: the probability or a cost is out of range.
    """

    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.p_target < 1 and self.c_miss > 0 and self.c_fa > 0):
            raise ParameterError(
                f"p_target {self.p_target}, c_miss {self.c_miss}, c_fa {self.c_fa}: "
                "the probability must lie between 0 and 1, costs above 0"
            )

    @property
    def name(self) -> str:
        """The probability's decimals, as metrics carry them: 0.01 is p01."""
        return "p" + f"{self.p_target:.12f}".rstrip("0").removeprefix("0.")

    @property
    def threshold(self) -> float:
        """Natural log-likelihood ratio from which on accepting costs less than refusing (Bayes)."""
        return math.log(self.c_fa * (1 - self.p_target)) - math.log(self.c_miss * self.p_target)

    def __str__(self) -> str:
        return f"p_target {self.p_target:g}, c_miss {self.c_miss:g}, c_fa {self.c_fa:g}"

    def cost(self, fnr: Rates, fpr: Rates) -> Rates:
        """Detection cost, divided by that of the better of accepting and of refusing every trial."""
        miss_weight, false_acceptance_weight = self.c_miss * self.p_target, self.c_fa * (1 - self.p_target)
        return (miss_weight * fnr + false_acceptance_weight * fpr) / min(miss_weight, false_acceptance_weight)


@dataclass(frozen=True)
class DecisionErrors:
    """Wrong decisions among trials, by count."""

    misses: int
    num_target: int
    false_acceptances: int
    num_nontarget: int

    @property
    def miss_rate(self) -> float:
        """Share of the targets that are refused."""
        return self.misses / self.num_target

    @property
    def false_acceptance_rate(self) -> float:
        """Share of the non-targets that are accepted."""
        return self.false_acceptances / self.num_nontarget


@dataclass(frozen=True, eq=False)
class SortedTrials:
    """Trials by rising score, with the thresholds that tell them apart: sorted once, measured in many ways.

    The first of the K thresholds is the lowest score, which accepts every trial; the last is the next
    number above the highest score, which accepts none.
    """

    order: np.ndarray  # (trials,), rows of the trials by rising score
    is_target: np.ndarray  # bool (trials,), in that order
    num_below: np.ndarray  # whole numbers (K,), trials below each threshold
    thresholds: np.ndarray  # float64 (K,), rising

    @cached_property
    def misses(self) -> np.ndarray:
        """Targets below each threshold, whole numbers (K,)."""
        counts = np.zeros(len(self.is_target) + 1, dtype=self.num_below.dtype)
        np.cumsum(self.is_target, out=counts[1:])
        return counts[self.num_below]

    @cached_property
    def num_target(self) -> int:
        return int(self.misses[-1])

    @property
    def num_nontarget(self) -> int:
        return len(self.order) - self.num_target

    def rates(self, at: slice | int = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """False negative and false positive rate at some of the thresholds, or at all of them, (K,) each."""
        misses = self.misses[at]
        false_acceptances = self.num_nontarget - (self.num_below[at] - misses)
        return misses / self.num_target, false_acceptances / self.num_nontarget

    def equal_error_rate(self) -> tuple[float, float]:
        """As the function of this name."""

        def both(place: int) -> tuple[int, int]:
            """Both rates times both totals: whole numbers, so that equal gaps are equal to the last digit."""
            misses = int(self.misses[place])
            false_acceptances = self.num_nontarget - (int(self.num_below[place]) - misses)
            return misses * self.num_nontarget, false_acceptances * self.num_target

        def rise(place: int) -> int:
            fnr, fpr = both(place)
            return fnr - fpr

        # FNR - FPR rises with every threshold, so the least gap lies on one of the two sides of its zero.
        zero = bisect_left(range(len(self.thresholds)), 0, key=rise)
        best = min((zero, zero - 1), key=lambda place: (abs(rise(place)), max(both(place))))
        eer_percent = 100 * max(both(best)) / (self.num_target * self.num_nontarget)
        return eer_percent, float(self.thresholds[best])

    def min_detection_cost(self, point: OperatingPoint) -> tuple[float, float]:
        """As the function of this name."""
        least, best = math.inf, 0
        for block in row_blocks(len(self.thresholds), _THRESHOLDS_PER_BLOCK):
            cost = point.cost(*self.rates(block))
            place = int(cost.argmin())
            if cost[place] < least:
                least, best = float(cost[place]), block.start + place
        return least, float(self.thresholds[best])

    def min_cllr(self) -> float:
        """As the function of this name."""
        from sklearn.isotonic import isotonic_regression

        num_tied, targets = np.diff(self.num_below), np.diff(self.misses)  # of the trials of each score
        # Scores beside each other that only one class reaches get one value: they are taken together.
        only_targets, only_nontargets = targets == num_tied, targets == 0
        first = ~(only_targets | only_nontargets)
        first[1:] |= (only_targets[1:] != only_targets[:-1]) | (only_nontargets[1:] != only_nontargets[:-1])
        first[0] = True
        num_tied, targets = (np.add.reduceat(counts, np.flatnonzero(first)) for counts in (num_tied, targets))
        # Pool adjacent violators: the share of targets that rises with the score and fits best.
        share = isotonic_regression(targets / num_tied, sample_weight=num_tied)
        odds_of_lists = self.num_target / self.num_nontarget
        with np.errstate(divide="ignore"):  # a score that only targets reach costs nothing as a target's
            odds = share / (1 - share) / odds_of_lists
            target_bits, nontarget_bits = np.log2(1 + 1 / odds), np.log2(1 + odds)
        costs = [
            bits[count > 0] @ count[count > 0] / count.sum()
            for bits, count in ((target_bits, targets), (nontarget_bits, num_tied - targets))
        ]
        return float(sum(costs)) / 2


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64 (trials,) and whether each trial is a target (trials,), if they can be measured."""
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
    return values, is_target


def sort_trials(scores: npt.ArrayLike, labels: npt.ArrayLike) -> SortedTrials:
    """Sort trials by score; equal scores share a threshold, so they fall on one side of any.

    Args:
        scores: (trials,), higher means "same speaker".
        labels: (trials,), 1 target, 0 non-target.

    Raises:
        DataError: the arrays differ in shape, a score is not finite, a label is neither 0 nor 1, or only one
            class is there.
    """
    values, is_target = _checked(scores, labels)
    # Tens of millions of trials are to fit into memory.
    row_type: type[np.integer[Any]] = np.int32 if len(values) < 2**31 else np.int64
    order = np.argsort(values, kind="stable").astype(row_type)
    rising = np.empty(len(values) + 1)
    np.take(values, order, out=rising[:-1])
    rising[-1] = np.nextafter(rising[-2], np.inf)
    is_new = np.ones(len(rising), dtype=bool)
    np.not_equal(rising[1:], rising[:-1], out=is_new[1:])
    num_below = np.flatnonzero(is_new).astype(row_type)
    return SortedTrials(order, is_target[order], num_below, rising[num_below])


def error_rates(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False negative rate, false positive rate and threshold, (K,) each, thresholds rising.

    Raises:
        DataError: as `sort_trials`.
    """
    trials = sort_trials(scores, labels)
    return *trials.rates(), trials.thresholds


def equal_error_rate(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Equal error rate in % and its threshold.

    Over all thresholds, where the false negative and the false positive rate differ least, the larger of
    the two. Of two thresholds that differ as much, the one with the lower result counts, so that changing
    the classes round changes nothing.

    Raises:
        DataError: as `sort_trials`.
    """
    return sort_trials(scores, labels).equal_error_rate()


def min_detection_cost(
    scores: npt.ArrayLike, labels: npt.ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """Least normalised detection cost over all thresholds, and its threshold.

    Args:
        scores: (trials,).
        labels: (trials,), 1 target, 0 non-target.
        p_target, c_miss, c_fa: the operating point.

    Raises:
        DataError: as `sort_trials`.
        ParameterError: as `OperatingPoint`.
    """
    return sort_trials(scores, labels).min_detection_cost(OperatingPoint(p_target, c_miss, c_fa))


def decision_errors(
    log_likelihood_ratios: npt.ArrayLike, labels: npt.ArrayLike, point: OperatingPoint
) -> DecisionErrors:
    """Wrong ones of the decisions that log-likelihood ratios lead to at the Bayes threshold.

    Args:
        log_likelihood_ratios: (trials,), natural.
        labels: (trials,), 1 target, 0 non-target.
        point: the operating point.

    Raises:
        DataError: as `sort_trials`.
    """
    values, is_target = _checked(log_likelihood_ratios, labels)
    accepted = values >= point.threshold
    return DecisionErrors(
        misses=int((~accepted[is_target]).sum()),
        num_target=int(is_target.sum()),
        false_acceptances=int(accepted[~is_target].sum()),
        num_nontarget=int((~is_target).sum()),
    )


def actual_detection_cost(
    log_likelihood_ratios: npt.ArrayLike,
    labels: npt.ArrayLike,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Normalised detection cost of the decisions that log-likelihood ratios lead to at the Bayes threshold.

    Args:
        log_likelihood_ratios: (trials,), natural.
        labels: (trials,), 1 target, 0 non-target.
        p_target, c_miss, c_fa: the operating point.

    Raises:
        DataError: as `sort_trials`.
        ParameterError: as `OperatingPoint`.
    """
    point = OperatingPoint(p_target, c_miss, c_fa)
    errors = decision_errors(log_likelihood_ratios, labels, point)
    return point.cost(errors.miss_rate, errors.false_acceptance_rate)


def cllr(log_likelihood_ratios: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Cost of log-likelihood ratios over all operating points, in bits: 0 at best, 1 where all of them are 0.

    Source: N. Brümmer, J. du Preez, "Application-Independent Evaluation of Speaker Detection", Computer
    Speech and Language 20, 2006.

    Args:
        log_likelihood_ratios: (trials,), natural.
        labels: (trials,), 1 target, 0 non-target.

    Raises:
        DataError: as `sort_trials`.
    """
    values, is_target = _checked(log_likelihood_ratios, labels)
    targets, nontargets = np.logaddexp(0, -values[is_target]), np.logaddexp(0, values[~is_target])
    return float(targets.mean() + nontargets.mean()) / (2 * math.log(2))


def min_cllr(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Least `cllr` that any rising function of the scores could have on these trials, in bits.

    The function is fitted to the trials themselves by pooling adjacent violators, without smoothing; equal
    scores stay equal.

    Source: as `cllr`.

    Raises:
        DataError: as `sort_trials`.
    """
    return sort_trials(scores, labels).min_cllr()
