"""Error rates of open-set identification: searches of enrolled speakers and of others in a gallery.

Source: P. Grother et al., "Face Recognition Vendor Test (FRVT) Part 2: Identification", NIST IR 8271, 2019
(false positive and false negative identification rate).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.blocks import ComputeBudget, shown_blocks
from speaker_verification.scoring.cohort import number_speakers
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.sides import SideScorer

_PROBES_PER_BLOCK = 1024
_THRESHOLDS = 100  # of a table, at evenly spaced quantiles of the highest scores


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


RATES = ("false_alarm", "miss", "misidentification")


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


def draw_gallery(speaker_ids: pd.Series, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw half of the speakers, and of each one utterance to enrol; all others are probes.

    Speakers of one utterance are not drawn.

    Args:
        speaker_ids: (N,) speaker of each utterance.
        seed: the same seed draws the same gallery.

    Returns:
        gallery: (G,) rows of the enrolled utterances, one of each speaker.
        probes: (P,) rows of the others.
    """
    numbers, num_speakers = number_speakers(speaker_ids)
    rng = np.random.default_rng(seed)
    repeated = np.flatnonzero(np.bincount(numbers) > 1)
    drawn = np.sort(rng.permutation(repeated)[: num_speakers // 2])
    gallery = np.array([rng.choice(np.flatnonzero(numbers == speaker)) for speaker in drawn], dtype=int)
    return gallery, np.setdiff1d(np.arange(len(numbers)), gallery)


def search_gallery(
    store: EmbeddingStore, scorer: SideScorer, seed: int, budget: ComputeBudget | None = None
) -> Searches:
    """Search the other utterances of a store among half of its speakers, by log-likelihood ratio.

    Args:
        store: embeddings of at least two speakers, one of them with two utterances.
        scorer: calibrated scoring.
        seed: seed of the gallery, as `draw_gallery`.
        budget: memory, threads and device of the computation.

    Raises:
        DataError: the speakers do not suffice.
    """
    speakers = store.utterances["speaker_id"]
    seconds = store.utterances["duration_seconds"].to_numpy()
    gallery, probes = draw_gallery(speakers, seed)
    if not len(gallery):
        raise DataError(
            f"a gallery cannot be drawn of {speakers.nunique()} speakers: two are needed, one of them with "
            "two utterances"
        )
    enrolled = scorer.describe(store.embeddings[gallery], seconds[gallery], budget)
    highest, best = np.empty(len(probes)), np.empty(len(probes), dtype=int)
    for block in shown_blocks("search the gallery", len(probes), _PROBES_PER_BLOCK):
        rows = probes[block]
        tests = scorer.describe(store.embeddings[rows], seconds[rows], budget)
        cosines = tests.directions @ enrolled.directions.T  # (block, G)
        for place, of_probe in enumerate(cosines):
            ratios = scorer.log_likelihood_ratios(of_probe, enrolled, tests.at(slice(place, place + 1)))
            best[block.start + place] = ratios.argmax()
            highest[block.start + place] = ratios.max()
    own, names = speakers.to_numpy()[probes], speakers.to_numpy()[gallery]
    return Searches(highest, names[best] == own, np.isin(own, names), own)


def tabulate_rates(rates: OpenSetRates | None) -> pd.DataFrame:
    """Table of rates in %, with the ends of their intervals; a row for each threshold, or none."""
    columns = {"threshold": rates.thresholds if rates else np.empty(0)}
    for name in RATES:
        rate = getattr(rates, name) if rates else Rate(*np.empty((3, 0)))
        columns |= {name: 100 * rate.values, f"{name}_low": 100 * rate.low, f"{name}_high": 100 * rate.high}
    return pd.DataFrame(columns)


def spread_thresholds(searches: Searches) -> np.ndarray:
    """Thresholds (K,), rising, that the rates of a table change at."""
    return np.unique(np.quantile(searches.highest, np.linspace(0, 1, _THRESHOLDS)))


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
