"""Equal error rates of several systems on the same trials: means over seeds, and paired differences.

Systems share trials and speakers, so each resample of the speakers gives a rate of every system, and the
interval of a difference is narrower than those of the rates. Runs of one recipe that differ in their seed are
resampled too: a difference that another seed would undo is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speaker_verification.scoring.bootstrap import percentile_interval, resampled_equal_error_rates
from speaker_verification.scoring.metrics import sort_trials
from speaker_verification.scoring.trial_speakers import TrialSpeakers


@dataclass(frozen=True, eq=False)
class SystemRates:
    """Equal error rates in % of one system on a trial list.

    Attributes:
        rates: (S,) rate of each of its S runs, which differ in their seeds.
        resampled: (S, R) their rates on the R resamples of the speakers; NaN where a class was lost.
    """

    rates: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(self.rates.mean())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the runs, unbiased; None of a single run."""
        return float(self.rates.std(ddof=1)) if len(self.rates) > 1 else None

    def means(self, rng: np.random.Generator) -> np.ndarray:
        """Mean rates (R,) of as many runs, drawn with replacement for each resample."""
        num_runs, num_resamples = self.resampled.shape
        drawn = rng.integers(num_runs, size=self.resampled.shape)
        return np.asarray(self.resampled[drawn, np.arange(num_resamples)].mean(axis=0))

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """95 % interval of the mean over speakers and runs; None where no resample kept both classes."""
        return percentile_interval(self.means(np.random.default_rng(seed)))


@dataclass(frozen=True)
class RateDifference:
    """Difference of two systems' mean equal error rates, in percentage points.

    Attributes:
        value: rate of the second system less that of the first: below 0 where the second is better.
        interval: its 95 % interval over speakers and runs; None where no resample kept both classes.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def system_rates(
    scores: Sequence[np.ndarray],
    labels: np.ndarray,
    speakers: TrialSpeakers,
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> SystemRates:
    """Equal error rates of a system's runs on one trial list.

    Args:
        scores: (trials,) of each run, of the same trials in the same order.
        labels: (trials,), 1 target, 0 non-target.
        speakers: speakers of the trials.
        num_resamples: number of resamples of the speakers.
        seed: seed of the resamples; the same for systems that are compared.
    """
    in_order = [sort_trials(values, labels) for values in scores]
    return SystemRates(
        np.array([trials.equal_error_rate()[0] for trials in in_order]),
        np.stack(
            [
                resampled_equal_error_rates(
                    trials, speakers.enroll, speakers.test, num_resamples=num_resamples, seed=seed
                )
                for trials in in_order
            ]
        ),
    )


def rate_difference(first: SystemRates, second: SystemRates, seed: int = 0) -> RateDifference:
    """Paired difference of two systems on the same trials, resampled over speakers and runs.

    Args:
        first, second: rates by the same resamples of the speakers.
        seed: seed of the runs that are drawn, which are independent of each other.
    """
    rng = np.random.default_rng(seed)
    drawn = -first.means(rng) + second.means(rng)
    return RateDifference(second.mean - first.mean, percentile_interval(drawn))
