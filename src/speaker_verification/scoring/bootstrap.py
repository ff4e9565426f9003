"""How far an equal error rate would move with other speakers.

Trials share speakers, so resampling trials makes intervals too narrow; speakers are resampled instead.
Source: N. Poh, S. Bengio, "Estimating the Confidence Interval of Expected Performance Curve in Biometric
Authentication Using Joint Bootstrap", ICASSP 2007 (subsets of users).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speaker_verification.scoring.metrics import sort_trials


def equal_error_rate_interval(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    enroll_speakers: np.ndarray,
    test_speakers: np.ndarray,
    *,
    num_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the equal error rate in %, by speakers drawn with replacement.

    A trial between two speakers counts as often as the product of the times they were drawn, a trial
    within one speaker as often as that one was. Draws that leave only one class are left out; if all do, the
    interval is 0 to 100.

    Args:
        scores: (trials,).
        labels: (trials,), 1 target, 0 non-target.
        enroll_speakers: (trials,), whole numbers from 0, one for each speaker.
        test_speakers: (trials,), likewise.
        num_resamples: how often the speakers are drawn.
        confidence: share of the resampled error rates between the two ends.
        seed: the same seed gives the same interval.

    Raises:
        DataError: as `sort_trials`.
    """
    trials = sort_trials(scores, labels)
    num_speakers = 1 + int(max(enroll_speakers.max(), test_speakers.max()))
    # Where both sides are one speaker, the second factor is that of a speaker beyond the last, always 1.
    second = np.where(enroll_speakers == test_speakers, num_speakers, test_speakers)
    one, other = enroll_speakers[trials.order].astype(np.int32), second[trials.order].astype(np.int32)
    rng = np.random.default_rng([seed, num_speakers])
    times_drawn = np.ones(num_speakers + 1)
    rates = []
    for _ in range(num_resamples):
        times_drawn[:-1] = np.bincount(rng.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        weights = times_drawn[one] * times_drawn[other]
        rate = _weighted_equal_error_rate(weights, trials.is_target, trials.num_below)
        if rate is not None:
            rates.append(rate)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(rates, [tail, 100 - tail]) if rates else (0.0, 100.0)
    return float(low), float(high)


def _weighted_equal_error_rate(
    weights: np.ndarray, is_target: np.ndarray, num_below: np.ndarray
) -> float | None:
    """Equal error rate in % of trials that count by whole-numbered weights; None if one class has none."""
    target_weight = float(weights @ is_target)
    nontarget_weight = float(weights.sum()) - target_weight
    if not target_weight or not nontarget_weight:
        return None
    # FNR - FPR only rises with the threshold, so the least gap lies on one of the two sides of its zero.
    shares = weights * np.where(is_target, 1 / target_weight, 1 / nontarget_weight)
    rising = np.concatenate([[0], np.cumsum(shares)])[num_below]  # 1 + FNR - FPR
    zero = int(np.searchsorted(rising, 1.0))
    candidates = []
    for place in (max(zero - 1, 0), min(zero, len(num_below) - 1)):
        below = num_below[place]
        misses = float(weights[:below] @ is_target[:below])
        fnr = misses / target_weight
        fpr = 1 - (float(weights[:below].sum()) - misses) / nontarget_weight
        candidates.append((abs(fnr - fpr), max(fnr, fpr)))
    return 100 * min(candidates)[1]
