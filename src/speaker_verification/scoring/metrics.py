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
    """Operating point of decisions: probability of a target trial and costs of both errors.

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
        """Decimals of the probability, as in names of metrics: 0.01 is p01."""
        return "p" + f"{self.p_target:.12f}".rstrip("0").removeprefix("0.")

    @property
    def threshold(self) -> float:
        """Bayes decision threshold on the natural log-likelihood ratio: accept at or above it."""
        return math.log(self.c_fa * (1 - self.p_target)) - math.log(self.c_miss * self.p_target)

    def __str__(self) -> str:
        return f"p_target {self.p_target:g}, c_miss {self.c_miss:g}, c_fa {self.c_fa:g}"

    def cost(self, fnr: Rates, fpr: Rates) -> Rates:
        """Detection cost, normalised by the lower cost of accepting and of rejecting every trial."""
        miss_weight, false_acceptance_weight = self.c_miss * self.p_target, self.c_fa * (1 - self.p_target)
        return (miss_weight * fnr + false_acceptance_weight * fpr) / min(miss_weight, false_acceptance_weight)


@dataclass(frozen=True)
class DecisionErrors:
    """Counts of misses and false acceptances."""

    misses: int
    num_target: int
    false_acceptances: int
    num_nontarget: int

    @property
    def miss_rate(self) -> float:
        """Share of the targets that are rejected."""
        return self.misses / self.num_target

    @property
    def false_acceptance_rate(self) -> float:
        """Share of the non-targets that are accepted."""
        return self.false_acceptances / self.num_nontarget


@dataclass(frozen=True, eq=False)
class SortedTrials:
    """Trials sorted by score, with all distinct thresholds; sorted once for several metrics.

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
        """Same as the function of this name."""

        def both(place: int) -> tuple[int, int]:
            """Both rates times both totals: whole numbers, so that equal gaps compare equal."""
            misses = int(self.misses[place])
            false_acceptances = self.num_nontarget - (int(self.num_below[place]) - misses)
            return misses * self.num_nontarget, false_acceptances * self.num_target

        def rise(place: int) -> int:
            fnr, fpr = both(place)
            return fnr - fpr

        # FNR - FPR rises with the threshold, so the smallest gap is next to its zero crossing.
        zero = bisect_left(range(len(self.thresholds)), 0, key=rise)
        best = min((zero, zero - 1), key=lambda place: (abs(rise(place)), max(both(place))))
        eer_percent = 100 * max(both(best)) / (self.num_target * self.num_nontarget)
        return eer_percent, float(self.thresholds[best])

    def min_detection_cost(self, point: OperatingPoint) -> tuple[float, float]:
        """Same as the function of this name."""
        least, best = math.inf, 0
        for block in row_blocks(len(self.thresholds), _THRESHOLDS_PER_BLOCK):
            cost = point.cost(*self.rates(block))
            place = int(cost.argmin())
            if cost[place] < least:
                least, best = float(cost[place]), block.start + place
        return least, float(self.thresholds[best])

    def min_cllr(self) -> float:
        """Same as the function of this name."""
        from sklearn.isotonic import isotonic_regression

        num_tied, targets = np.diff(self.num_below), np.diff(self.misses)  # of the trials of each score
        # Adjacent scores of one class alone get one value in any case: merged for speed.
        only_targets, only_nontargets = targets == num_tied, targets == 0
        first = ~(only_targets | only_nontargets)
        first[1:] |= (only_targets[1:] != only_targets[:-1]) | (only_nontargets[1:] != only_nontargets[:-1])
        first[0] = True
        num_tied, targets = (np.add.reduceat(counts, np.flatnonzero(first)) for counts in (num_tied, targets))
        # Pool adjacent violators: the best-fitting share of targets that never falls with the score.
        share = isotonic_regression(targets / num_tied, sample_weight=num_tied)
        odds_of_lists = self.num_target / self.num_nontarget
        with np.errstate(divide="ignore"):  # odds are infinite where only targets reach a score
            odds = share / (1 - share) / odds_of_lists
            target_bits, nontarget_bits = np.log2(1 + 1 / odds), np.log2(1 + odds)
        costs = [
            bits[count > 0] @ count[count > 0] / count.sum()
            for bits, count in ((target_bits, targets), (nontarget_bits, num_tied - targets))
        ]
        return float(sum(costs)) / 2


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Validated scores, float64 (trials,), and target flags, bool (trials,)."""
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != classes.shape:
        raise DataError(f"scores {values.shape} and labels {classes.shape} must be 1-D and of one length")
    if not np.isfinite(values).all():
        raise DataError(f"the score of trial {int(np.isfinite(values).argmin())} is not finite")
    is_target = classes == 1
    if not (is_target | (classes == 0)).all():
        raise DataError(
            f"labels are {np.unique(classes)[:10].tolist()}: only 1 (target) and 0 (non-target) are allowed"
        )
    if is_target.all() or not is_target.any():
        raise DataError(
            f"{is_target.sum()} of {len(values)} trials are targets: error rates need targets and non-targets"
        )
    return values, is_target


def sort_trials(scores: npt.ArrayLike, labels: npt.ArrayLike) -> SortedTrials:
    """Trials sorted by score; equal scores share one threshold.

    Args:
        scores: (trials,), higher means "same speaker".
        labels: (trials,), 1 target, 0 non-target.

    Raises:
        DataError: the arrays differ in shape, a score is not finite, a label is neither 0 nor 1, or one class
            is missing.
    """
    values, is_target = _checked(scores, labels)
    # Small integers, so that tens of millions of trials fit into memory.
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

    The larger of the false negative and false positive rate at the threshold where they differ least. Of two
    thresholds with equal difference the one with the lower result is taken, which makes the rate symmetric
    in the two classes.

    Raises:
        DataError: as `sort_trials`.
    """
    return sort_trials(scores, labels).equal_error_rate()


def min_detection_cost(
    scores: npt.ArrayLike, labels: npt.ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """Minimum normalised detection cost over all thresholds, and its threshold.

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
    """Misses and false acceptances of log-likelihood ratios at the Bayes threshold.

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
    """Normalised detection cost of log-likelihood ratios at the Bayes threshold.

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
    """Cllr, cost of log-likelihood ratios over all operating points, in bits: 0 is perfect, 1 uninformative.

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
    """Minimum `cllr` of any monotonic function of the scores on these trials, in bits.

    The function is fitted to the trials themselves by pooling adjacent violators, without smoothing; tied
    scores stay tied.

    Source: as `cllr`.

    Raises:
        DataError: as `sort_trials`.
    """
    return sort_trials(scores, labels).min_cllr()
