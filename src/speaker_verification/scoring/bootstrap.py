"""Bootstrap of the equal error rate, resampled by speaker: intervals, and differences over the same trials.

Trials share speakers, so resampling trials makes intervals too narrow; speakers are resampled instead.
Source: N. Poh, S. Bengio, "Estimating the Confidence Interval of Expected Performance Curve in Biometric
Authentication Using Joint Bootstrap", ICASSP 2007 (subsets of users).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from speaker_verification.scoring.metrics import SortedTrials

_TRIALS_PER_BLOCK = 2048


def equal_error_rate_interval(
    trials: SortedTrials,
    enroll_speakers: np.ndarray,
    test_speakers: np.ndarray,
    *,
    num_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the equal error rate in %, by speakers drawn with replacement.

    Args:
        trials, enroll_speakers, test_speakers, num_resamples, seed: see `resampled_equal_error_rates`.
        confidence: share of the resampled error rates inside the interval.

    Returns:
        Lowest and highest rate; 0 and 100 where every resample lost one of the classes.
    """
    return percentile_interval(
        resampled_equal_error_rates(
            trials, enroll_speakers, test_speakers, num_resamples=num_resamples, seed=seed
        ),
        confidence,
    ) or (0.0, 100.0)


def percentile_interval(resampled: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval that holds a share of the resampled values; NaN are left out, and None means no others."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def resampled_equal_error_rates(
    trials: SortedTrials,
    enroll_speakers: np.ndarray,
    test_speakers: np.ndarray,
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Equal error rates in % (resamples,) of speakers drawn with replacement; NaN where a class is lost.

    The weight of a trial between two speakers is the product of the times both were drawn, that of a trial
    within one speaker the times it was drawn. The draws depend on the number of speakers and the seed alone,
    so that two systems' rates on the same trials are paired.

    Args:
        trials: trials sorted by `sort_trials`.
        enroll_speakers: (trials,) before sorting, speaker numbers from 0.
        test_speakers: (trials,), likewise.
        num_resamples: number of resamples.
        seed: seed of the resamples.
    """
    num_speakers = 1 + int(max(enroll_speakers.max(), test_speakers.max()))
    # Within one speaker the second factor is 1: that of a dummy speaker after the last.
    dummy = np.ones((1, num_resamples), dtype=np.float32)
    times_drawn = np.concatenate([draw_speakers(num_speakers, num_resamples, seed), dummy])
    second = np.where(enroll_speakers == test_speakers, num_speakers, test_speakers)
    return _weighted_equal_error_rates(
        trials, times_drawn, enroll_speakers[trials.order], second[trials.order]
    )


def draw_speakers(num_speakers: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """Times that each speaker is drawn, float32 whole numbers (speakers, resamples)."""
    rng = np.random.default_rng([seed, num_speakers])
    times_drawn = np.empty((num_speakers, num_resamples), dtype=np.float32)
    for resample in range(num_resamples):
        drawn = rng.integers(num_speakers, size=num_speakers)
        times_drawn[:, resample] = np.bincount(drawn, minlength=num_speakers)
    return times_drawn


def _weighted_equal_error_rates(
    trials: SortedTrials, times_drawn: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Equal error rate in % of each resample; NaN where it loses a class.

    FNR - FPR never falls with the threshold. So the weights of all resamples are first summed over blocks of
    trials, and then each resample is searched only in the block where its difference crosses 0.

    Args:
        trials: sorted trials.
        times_drawn: (speakers, resamples), whole numbers.
        one: (trials,) first speaker of each sorted trial.
        other: (trials,) second speaker.
    """
    cuts = np.searchsorted(trials.num_below, np.arange(0, len(one), _TRIALS_PER_BLOCK))
    cuts = np.unique(np.append(cuts, len(trials.num_below) - 1))  # thresholds between which blocks lie
    classes = np.stack([trials.is_target, ~trials.is_target])  # (2, trials)
    below = np.zeros((len(cuts), 2, times_drawn.shape[1]))  # weight of either class below each cut
    for place, (first, last) in enumerate(pairwise(trials.num_below[cuts])):
        weights = times_drawn[one[first:last]] * times_drawn[other[first:last]]  # (block, resamples)
        below[place + 1] = below[place] + classes[:, first:last].astype(np.float32) @ weights

    rates = np.full(times_drawn.shape[1], np.nan)
    for resample, (num_target, num_nontarget) in enumerate(below[-1].T):
        if not num_target or not num_nontarget:
            continue
        # All trials are accepted at the first cut, none at the last: the difference crosses 0 in between.
        block = int((_balance(below[:, :, resample], num_target, num_nontarget) >= 0).argmax()) - 1
        num_below = trials.num_below[cuts[block] : cuts[block + 1] + 1]
        inside = slice(num_below[0], num_below[-1])
        weights = times_drawn[one[inside], resample] * times_drawn[other[inside], resample]
        steps = np.zeros((2, len(weights) + 1))
        np.cumsum(classes[:, inside] * weights, axis=1, dtype=np.float64, out=steps[:, 1:])
        # (thresholds of the block, 2)
        counts = below[block, :, resample] + steps[:, num_below - inside.start].T
        zero = int((_balance(counts, num_target, num_nontarget) >= 0).argmax())
        targets, nontargets = counts[zero - 1 : zero + 1].T
        fnr, fpr = targets / num_target, 1 - nontargets / num_nontarget
        rates[resample] = 100 * min(zip(np.abs(fnr - fpr), np.maximum(fnr, fpr), strict=True))[1]
    return rates


def _balance(below: np.ndarray, num_target: float, num_nontarget: float) -> np.ndarray:
    """FNR - FPR times both totals, exact in whole numbers, of weights (thresholds, 2) below thresholds."""
    return below[:, 0] * num_nontarget + (below[:, 1] - num_nontarget) * num_target
