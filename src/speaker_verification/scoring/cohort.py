"""Cohorts, and the statistics of each embedding's top-n cohort cosines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.blocks import ComputeBudget, passing_over, shown_blocks
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.selection import highest_cosines

Statistics = tuple[np.ndarray, np.ndarray]
Deviation = Literal["unbiased", "biased"]

ROWS_PER_SUM = 16_384
_LEAST_DEVIATION = 1e-6  # below it, float32 cosines differ by rounding alone


def speaker_means(store: EmbeddingStore, rows_per_block: int = ROWS_PER_SUM) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each speaker's raw embeddings, in one pass over the store.

    Returns:
        means: float64 (S, E), S speakers in the order of their names.
        speaker_of_row: (N,) which of them each utterance is of.
    """
    speaker_of_row, num_speakers = number_speakers(store.utterances["speaker_id"])
    sums = np.zeros((num_speakers, store.embeddings.shape[1]))
    for rows, embeddings in passing_over(store.embeddings, rows_per_block):
        add_by_speaker(sums, speaker_of_row[rows], embeddings.astype(np.float64))
    return sums / np.bincount(speaker_of_row)[:, None], speaker_of_row


def number_speakers(speaker_ids: pd.Series) -> tuple[np.ndarray, int]:
    """Number of each row's speaker (N,) in the order of their names, and the number of speakers."""
    numbers, names = pd.factorize(speaker_ids, sort=True)
    return numbers, len(names)


def numbers_in_cohort(cohort_speakers: pd.Series, speaker_ids: pd.Series) -> np.ndarray:
    """Number of each row's speaker (N,) in the cohort, as `number_speakers` numbers it; -1: not in it."""
    _, names = pd.factorize(cohort_speakers, sort=True)
    return pd.Index(np.asarray(names)).get_indexer(np.asarray(speaker_ids))


def add_by_speaker(sums: np.ndarray, speakers: np.ndarray, values: np.ndarray) -> None:
    """Add rows (block, E) to the sums (S, E) of their speakers (block,)."""
    from scipy.sparse import csr_array

    present, place = np.unique(speakers, return_inverse=True)
    shape = len(present), len(place)
    belongs = csr_array((np.ones(len(place)), (place, np.arange(len(place)))), shape=shape)
    sums[present] += belongs @ values


@dataclass(frozen=True)
class Cohort:
    """Embeddings that scores are normalised against, and the centre of all embeddings.

    Attributes:
        embeddings: (S, E) raw embeddings, one for each speaker or one for each utterance.
        speakers: (S,) speaker of each row, numbered in the order of their names.
        centre: (E,) float64, subtracted from all embeddings: the mean over the cohort set's utterances (not
            over its speakers), or zeros.
    """

    embeddings: np.ndarray
    speakers: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, store: EmbeddingStore, kind: Literal["speaker_means", "utterances"], centre: bool) -> Cohort:
        """Cohort of a cohort set's embeddings."""
        means, speaker_of_row = speaker_means(store)
        shares = np.bincount(speaker_of_row) / len(speaker_of_row)
        mean = shares @ means if centre else np.zeros(means.shape[1])
        if kind == "utterances":
            return cls(store.embeddings, speaker_of_row, mean)
        return cls(means, np.arange(len(means)), mean)

    def directions(self) -> np.ndarray:
        """Embeddings (S, E), centred and of length 1, in float32."""
        return centre_and_normalise(self.embeddings, self.centre).astype(np.float32)


def cohort_statistics(
    embeddings: npt.ArrayLike,
    cohort: npt.ArrayLike,
    top_n: int,
    *,
    centre: np.ndarray | float = 0.0,
    deviation: Deviation = "unbiased",
    budget: ComputeBudget | None = None,
    cohort_is_normalised: bool = False,
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
        budget: memory, threads and device of the computation.
        cohort_is_normalised: whether the cohort is centred and of length 1 already.

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

    highest_cosines(
        embeddings,
        cohort,
        top_n,
        measure,
        centre=centre,
        budget=budget or ComputeBudget(),
        cohort_is_normalised=cohort_is_normalised,
    )
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
        top_n: as in `cohort_statistics`, like `deviation` and `budget`.
        sides: (sides,) row of the embedding of each side.
        excluded: (sides, 2) speakers that must not count; the same twice is one, -1 is none.

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
    rows_per_block = budget.rows_that_fit(bytes_of_row, share=0.25)
    for rows in shown_blocks("AS-norm", len(embeddings), rows_per_block):
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
        speakers: (sides, 2), as `excluded` above.
    """
    directions = centre_and_normalise(embeddings, cohort.centre)
    rows_of_speaker = np.split(
        np.argsort(cohort.speakers, kind="stable"), np.cumsum(np.bincount(cohort.speakers))[:-1]
    )
    cosines = np.full((len(sides), 2, max(map(len, rows_of_speaker))), -np.inf)
    is_new = np.stack([np.full(len(sides), True), speakers[:, 0] != speakers[:, 1]], axis=1)
    side, place = np.nonzero(is_new & (speakers >= 0))
    speaker = speakers[side, place]
    by_speaker = np.argsort(speaker, kind="stable")
    firsts = np.flatnonzero(np.diff(speaker[by_speaker], prepend=-1))
    for group in np.split(by_speaker, firsts)[1:]:
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
