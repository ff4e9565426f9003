"""Adaptive symmetric score normalisation with the highest cohort scores.

Source: P. Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition",
Interspeech 2017 (adaptive S-norm with the top scores of each side).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.blocks import ComputeBudget, passing_over, row_blocks
from speaker_verification.scoring.cosine import centre_and_normalise
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.selection import highest_cosines

Statistics = tuple[np.ndarray, np.ndarray]
Deviation = Literal["unbiased", "biased"]

_ROWS_PER_SUM = 16_384
_TRIALS_PER_BLOCK = 65_536
_LEAST_DEVIATION = 1e-6  # below it, float32 cosines differ by rounding alone


def speaker_means(store: EmbeddingStore) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each speaker's raw embeddings, in one pass over the store.

    Returns:
        means: float64 (S, E), S speakers in the order of their names.
        speaker_of_row: (N,) which of them each utterance is of.
    """
    from scipy.sparse import csr_array

    speaker_of_row, speaker_ids = pd.factorize(store.utterances["speaker_id"], sort=True)
    sums = np.zeros((len(speaker_ids), store.embeddings.shape[1]))
    for rows, embeddings in passing_over(store.embeddings, _ROWS_PER_SUM):
        speakers, place = np.unique(speaker_of_row[rows], return_inverse=True)
        belongs = csr_array((np.ones(len(place)), (place, np.arange(len(place)))))  # (speakers, block)
        sums[speakers] += belongs @ embeddings.astype(np.float64)
    return sums / np.bincount(speaker_of_row)[:, None], speaker_of_row


@dataclass(frozen=True)
class Cohort:
    """What scores are normalised against.

    Attributes:
        embeddings: (S, E) raw embeddings, one for each speaker or one for each utterance.
        speakers: (S,) speaker of each row, numbered in the order of their names.
        centre: (E,) float64, what is subtracted from all embeddings: the mean over the cohort set's
            utterances (not over its speakers), or nothing.
    """

    embeddings: np.ndarray
    speakers: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, store: EmbeddingStore, kind: Literal["speaker_means", "utterances"], centre: bool) -> Cohort:
        """The cohort that a cohort set's embeddings make."""
        means, speaker_of_row = speaker_means(store)
        shares = np.bincount(speaker_of_row) / len(speaker_of_row)
        mean = shares @ means if centre else np.zeros(means.shape[1])
        if kind == "utterances":
            return cls(store.embeddings, speaker_of_row, mean)
        return cls(means, np.arange(len(means)), mean)


def cohort_statistics(
    embeddings: npt.ArrayLike,
    cohort: npt.ArrayLike,
    top_n: int,
    *,
    centre: np.ndarray | float = 0.0,
    deviation: Deviation = "unbiased",
    budget: ComputeBudget | None = None,
) -> Statistics:
    """Mean and standard deviation of each embedding's highest cohort cosines.

    The highest are selected, not sorted. Cosines are computed in float32, those of float64 embeddings in
    float64.

    Args:
        embeddings: (N, E) centred embeddings, may be a memory map; they are scaled to length 1 here.
        cohort: (S, E) centred embeddings of the cohort; scaled to length 1 here.
        top_n: how many of the S cosines count.
        centre: (E,) subtracted from both, where they are not centred yet.
        deviation: divide by top_n - 1 or by top_n.
        budget: what the computation may use.

    Returns:
        mean: float64 (N,).
        std: float64 (N,).

    Raises:
        ParameterError: the cohort has fewer than `top_n` rows.
        DataError: the widths differ, an embedding has no direction, or its cosines do not vary.
    """
    embeddings, cohort = np.asanyarray(embeddings), np.asanyarray(cohort)
    check_top_n(top_n, np.ones(len(cohort), dtype=int))
    mean, std = np.empty(len(embeddings)), np.empty(len(embeddings))

    def measure(rows: slice, highest: np.ndarray) -> None:
        values = highest.astype(np.float64)  # (block, top_n)
        mean[rows] = values.mean(axis=1)
        values -= mean[rows, None]
        std[rows] = np.einsum("nc,nc->n", values, values)

    highest_cosines(embeddings, cohort, top_n, measure, centre=centre, budget=budget or ComputeBudget())
    return mean, _deviations(std, top_n, deviation)


def _deviations(squares: np.ndarray, top_n: int, deviation: Deviation) -> np.ndarray:
    """Standard deviations of `top_n` cosines from the sums of their squared distances to their mean."""
    std = np.sqrt(np.maximum(squares, 0) / (top_n - (deviation == "unbiased")))
    equal = std < _LEAST_DEVIATION
    if equal.any():
        raise DataError(
            f"the {top_n} highest cohort cosines of embedding {int(equal.argmax())} are all equal:"
            " the model gives the cohort's speakers the same embedding, so scores cannot be normalised"
        )
    return std


def statistics_without_speakers(
    embeddings: np.ndarray,
    cohort: Cohort,
    top_n: int,
    sides: np.ndarray,
    excluded: np.ndarray,
    *,
    deviation: Deviation = "unbiased",
    budget: ComputeBudget | None = None,
) -> Statistics:
    """Cohort statistics of trial sides, without the cohort rows of the trial's own two speakers.

    The cohort is gone through once for each embedding: its `top_n` highest cosines are kept with as many more
    as two speakers can have rows. What a side excludes is then taken out of them and the next ones move up.

    Args:
        embeddings: (N, E) raw.
        cohort: with the centre of both.
        top_n: how many cosines count.
        sides: (sides,) row of the embedding of each side.
        excluded: (sides, 2) speakers that must not count; the same twice is one.
        deviation: divide by top_n - 1 or by top_n.
        budget: what the computation may use.

    Returns:
        mean: float64 (sides,).
        std: float64 (sides,).

    Raises:
        ParameterError: fewer than `top_n` rows are left.
        DataError: as `cohort_statistics`.
    """
    budget = budget or ComputeBudget()
    rows_of_speakers = np.bincount(cohort.speakers)
    check_top_n(top_n, rows_of_speakers, num_excluded=2)
    num_spare = int(np.sort(rows_of_speakers)[-2:].sum())
    slack = 8 * np.finfo(np.promote_types(embeddings.dtype, np.float32)).eps
    mean, squares = np.empty((2, len(sides)))
    by_row = np.argsort(sides, kind="stable")
    bytes_of_side = 64 * rows_of_speakers.max()
    bytes_of_row = 32 * (top_n + num_spare) + 24 * embeddings.shape[1]
    bytes_of_row += bytes_of_side * len(sides) / len(embeddings)
    for rows in row_blocks(len(embeddings), budget.rows_that_fit(bytes_of_row, share=0.25)):
        highest = _sorted_highest(embeddings[rows], cohort, top_n + num_spare, budget)
        here = by_row[slice(*np.searchsorted(sides[by_row], [rows.start, rows.stop]))]
        own = sides[here] - rows.start
        removed = _cosines_with_speakers(embeddings[rows], own, cohort, excluded[here])[:, :num_spare]
        # The n-th removed one counts if it is among the top_n + n - 1 highest. The two products may round
        # apart; a removed cosine that only nearly counts is as good as the next one that moves up.
        counts = np.logical_and.accumulate(removed >= highest[own, top_n - 1 : -1] - slack, axis=1)
        num_removed = counts.sum(axis=1)
        # Sums of distances to the mean of the top_n, so that those of squares keep their digits.
        offset = highest[:, :top_n].mean(axis=1, keepdims=True)  # (rows, 1)
        highest -= offset
        removed = np.where(counts, removed - offset[own], 0.0)
        total = _sums_from(highest, top_n)[own, num_removed] - removed.sum(axis=1)
        total_squares = _sums_from(highest**2, top_n)[own, num_removed] - (removed**2).sum(axis=1)
        mean[here] = offset[own, 0] + total / top_n
        squares[here] = total_squares - total**2 / top_n
    return mean, _deviations(squares, top_n, deviation)


def _sorted_highest(
    embeddings: np.ndarray, cohort: Cohort, num_highest: int, budget: ComputeBudget
) -> np.ndarray:
    """Highest cohort cosines of each embedding, falling, float64 (N, num_highest)."""
    falling = np.empty((len(embeddings), num_highest))

    def keep(rows: slice, highest: np.ndarray) -> None:
        highest.sort(axis=1)
        falling[rows] = highest[:, ::-1]

    highest_cosines(embeddings, cohort.embeddings, num_highest, keep, centre=cohort.centre, budget=budget)
    return falling


def _sums_from(values: np.ndarray, first: int) -> np.ndarray:
    """Sums of the first `first`, `first` + 1, ... values of each row."""
    least = values[:, :first].sum(axis=1, keepdims=True)
    return np.concatenate([least, least + values[:, first:].cumsum(axis=1)], axis=1)


def _cosines_with_speakers(
    embeddings: np.ndarray, sides: np.ndarray, cohort: Cohort, speakers: np.ndarray
) -> np.ndarray:
    """Cosines of trial sides with the cohort rows of two speakers, falling; minus infinity fills up.

    Args:
        embeddings: (N, E) raw.
        sides: (sides,) row of the embedding of each side.
        cohort: with the centre of both.
        speakers: (sides, 2).
    """
    directions = centre_and_normalise(embeddings, cohort.centre)
    rows_of_speaker = np.split(
        np.argsort(cohort.speakers, kind="stable"), np.cumsum(np.bincount(cohort.speakers))[:-1]
    )
    cosines = np.full((len(sides), 2, max(map(len, rows_of_speaker))), -np.inf)
    is_new = np.stack([np.full(len(sides), True), speakers[:, 0] != speakers[:, 1]], axis=1)
    side, place = np.nonzero(is_new)
    speaker = speakers[side, place]
    by_speaker = np.argsort(speaker, kind="stable")
    firsts = np.flatnonzero(np.diff(speaker[by_speaker], prepend=-1))
    for group in np.split(by_speaker, firsts[1:]):
        rows = rows_of_speaker[speaker[group[0]]]
        of_speaker = centre_and_normalise(cohort.embeddings[rows], cohort.centre)
        cosines[side[group], place[group], : len(rows)] = directions[sides[side[group]]] @ of_speaker.T
    falling = cosines.reshape(len(sides), -1)
    falling.sort(axis=1)
    return falling[:, ::-1]


def check_top_n(top_n: int, rows_of_speakers: np.ndarray, num_excluded: int = 0) -> None:
    """Refuse a cohort size that the cohort does not allow.

    Args:
        top_n: highest cosines that count.
        rows_of_speakers: rows of each speaker in the cohort: 1 where it is of speaker means.
        num_excluded: speakers that are left out of the cohort, whichever they are.

    Raises:
        ParameterError: naming `score.top_n` and its bounds.
    """
    left_out = int(np.sort(rows_of_speakers)[len(rows_of_speakers) - num_excluded :].sum())
    num_rows = int(rows_of_speakers.sum())
    if not 2 <= top_n <= num_rows - left_out:
        kind = "speakers" if num_rows == len(rows_of_speakers) else "utterances"
        excluded = f", {left_out} of them left out in calibration trials" if num_excluded else ""
        raise ParameterError(
            f"parameter 'score.top_n' is {top_n}, but the cohort has {num_rows} "
            f"{kind}{excluded}: take 2 to {num_rows - left_out}"
        )


def as_norm(cosine: npt.ArrayLike, enroll_stats: Statistics, test_stats: Statistics) -> np.ndarray:
    """Normalised scores ((s - mean_e) / std_e + (s - mean_t) / std_t) / 2, float64 (trials,).

    Args:
        cosine: (trials,) scores.
        enroll_stats: mean and standard deviation (trials,) of each trial's enrolment side.
        test_stats: the same of each trial's test side.
    """
    scores = np.asarray(cosine, dtype=np.float64)
    (enroll_mean, enroll_std), (test_mean, test_std) = enroll_stats, test_stats
    return ((scores - enroll_mean) / enroll_std + (scores - test_mean) / test_std) / 2


def as_norm_of_trials(
    cosine: np.ndarray,
    statistics: Statistics,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
) -> np.ndarray:
    """Normalised scores from the statistics of utterances, float64 (trials,).

    Args:
        cosine: (trials,) scores.
        statistics: mean and standard deviation (N,) of each utterance.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: what the computation may use.
    """
    mean, std = statistics

    def normalise(trials: slice) -> np.ndarray:
        enroll, test = enroll_rows[trials], test_rows[trials]
        return as_norm(cosine[trials], (mean[enroll], std[enroll]), (mean[test], std[test]))

    return budget.score(len(cosine), _TRIALS_PER_BLOCK, normalise)
