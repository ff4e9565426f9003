"""Error rates of open-set identification: searches of enrolled speakers and of others in a gallery.

Source: P. Grother et al., "Face Recognition Vendor Test (FRVT) Part 2: Identification", NIST IR 8271, 2019
(false positive and false negative identification rate).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import DataError


@dataclass(frozen=True, eq=False)
class Searches:
    """Searches of P probes among enrolled speakers.

    Attributes:
        highest: (P,) highest score of each probe with an enrolled speaker.
        is_own: bool (P,), whether that speaker is the probe's own.
        is_enrolled: bool (P,), whether the probe's own speaker is enrolled.
        speakers: (P,) the probe's own speaker, any numbers or names.

    Raises:
        DataError: the lengths differ, a score is not finite, an own speaker is not enrolled, a speaker is
            both, or there are no probes of enrolled or of other speakers.
    """

    highest: np.ndarray
    is_own: np.ndarray
    is_enrolled: np.ndarray
    speakers: np.ndarray

    def __post_init__(self) -> None:
        shapes = {np.shape(values) for values in vars(self).values()}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise DataError(f"probes are described by arrays of the shapes {sorted(shapes)}: give one length")
        if not np.isfinite(self.highest).all():
            raise DataError(f"the score of probe {int(np.isfinite(self.highest).argmin())} is not finite")
        if self.is_enrolled.all() or not self.is_enrolled.any():
            raise DataError(
                f"{self.is_enrolled.sum()} of {len(self.highest)} probes are of enrolled speakers: rates "
                "need probes of enrolled speakers and of others"
            )
        both = set(self.speakers[self.is_enrolled].tolist()) & set(self.speakers[~self.is_enrolled].tolist())
        if both or (self.is_own & ~self.is_enrolled).any():
            raise DataError(f"speakers are enrolled for some probes and not for others: {sorted(both)[:10]}")

    @classmethod
    def of(
        cls, scores: np.ndarray, probe_speakers: npt.ArrayLike, gallery_speakers: npt.ArrayLike
    ) -> Searches:
        """Searches from all scores; of equal highest scores the first counts.

        Args:
            scores: (P, G), of each probe with each enrolled speaker.
            probe_speakers: (P,) speaker of each probe.
            gallery_speakers: (G,) the enrolled speakers, each once.
        """
        probes, gallery = np.asarray(probe_speakers), np.asarray(gallery_speakers)
        best = scores.argmax(axis=1)
        return cls(
            scores[np.arange(len(scores)), best], gallery[best] == probes, np.isin(probes, gallery), probes
        )


@dataclass(frozen=True, eq=False)
class Rate:
    """Rate at K thresholds, with its interval.

    Attributes:
        values: (K,) shares, 0 to 1.
        low: (K,) lower end of the interval.
        high: (K,) upper end.
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class OpenSetRates:
    """Error rates of identification at K thresholds. A speaker is named at or above the threshold.

    Attributes:
        thresholds: (K,).
        false_alarm: of probes of others, the share for whom somebody is named. It grows with the gallery.
        miss: of probes of enrolled speakers, the share for whom nobody is named.
        misidentification: of probes of enrolled speakers, the share for whom another one is named.
    """

    thresholds: np.ndarray
    false_alarm: Rate
    miss: Rate
    misidentification: Rate


def open_set_rates(
    searches: Searches,
    thresholds: npt.ArrayLike,
    *,
    num_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> OpenSetRates:
    """Error rates of identification, with bootstrap intervals by the probes' speakers.

    Enrolled speakers and others are drawn with replacement, each among themselves; the gallery stays.

    Args:
        searches: outcomes of the searches.
        thresholds: (K,) on the score.
        num_resamples: number of resamples; 0: intervals are the rates themselves.
        confidence: share of the resampled rates inside an interval.
        seed: seed of the resamples.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    enrolled = searches.is_enrolled
    named = searches.highest[:, None] >= levels  # (P, K)
    resampling = num_resamples, confidence, seed
    return OpenSetRates(
        levels,
        _rate(named[~enrolled], searches.speakers[~enrolled], *resampling),
        _rate(~named[enrolled], searches.speakers[enrolled], *resampling),
        _rate((named & ~searches.is_own[:, None])[enrolled], searches.speakers[enrolled], *resampling),
    )


def _rate(events: np.ndarray, speakers: np.ndarray, num_resamples: int, confidence: float, seed: int) -> Rate:
    """Share of events (P, K) over the probes, with intervals by their speakers (P,)."""
    values = events.mean(axis=0)
    if not num_resamples:
        return Rate(values, values, values)
    names, numbers = np.unique(speakers, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    totals = np.bincount(numbers)
    counts = np.add.reduceat(events[order].astype(np.float64), np.cumsum(totals) - totals)  # (speakers, K)
    rng = np.random.default_rng([seed, len(names)])
    drawn = rng.integers(len(names), size=(num_resamples, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])  # (resamples, speakers)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(times @ counts / (times @ totals)[:, None], [tail, 100 - tail], axis=0)
    return Rate(values, low, high)
