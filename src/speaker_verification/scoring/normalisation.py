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

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.scoring.blocks import row_blocks
from speaker_verification.scoring.cosine import normalise_length
from speaker_verification.scoring.embeddings import EmbeddingStore

Statistics = tuple[np.ndarray, np.ndarray]
Deviation = Literal["unbiased", "biased"]

_SCORES_PER_BLOCK = 2**23  # 32 MiB of float32
_LEAST_DEVIATION = 1e-6  # below it, float32 cosines differ by rounding alone


def speaker_means(store: EmbeddingStore) -> tuple[np.ndarray, list[str]]:
    """Mean of each speaker's raw embeddings.

    Returns:
        means: float64 (S, E), S speakers.
        speaker_ids: of the S rows, sorted.
    """
    speaker_of_row, speaker_ids = pd.factorize(store.utterances["speaker_id"], sort=True)
    by_speaker = np.argsort(speaker_of_row, kind="stable")
    firsts = np.searchsorted(speaker_of_row[by_speaker], np.arange(1, len(speaker_ids)))
    means = [store.embeddings[rows].mean(axis=0, dtype=np.float64) for rows in np.split(by_speaker, firsts)]
    return np.stack(means), list(speaker_ids)


@dataclass(frozen=True)
class Cohort:
    """What scores are normalised against.

    Attributes:
        embeddings: (S, E) raw embeddings, one for each speaker or one for each utterance.
        speakers: (S,) speaker of each row, numbered in the order of their names.
    """

    embeddings: np.ndarray
    speakers: np.ndarray

    @classmethod
    def of(cls, store: EmbeddingStore, kind: Literal["speaker_means", "utterances"]) -> Cohort:
        """The cohort that a cohort set's embeddings make."""
        if kind == "utterances":
            return cls(store.embeddings, pd.factorize(store.utterances["speaker_id"], sort=True)[0])
        means, speaker_ids = speaker_means(store)
        return cls(means, np.arange(len(speaker_ids)))


def cohort_statistics(
    embeddings: npt.ArrayLike,
    cohort: npt.ArrayLike,
    top_n: int,
    *,
    deviation: Deviation = "unbiased",
    speakers: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> Statistics:
    """Mean and standard deviation of each embedding's highest cohort cosines.

    Memory is bounded by blocks of rows; the highest scores are selected, not sorted.

    Args:
        embeddings: (N, E) centred embeddings; they are scaled to length 1 here.
        cohort: (S, E) centred embeddings of the cohort; scaled to length 1 here.
        top_n: how many of the S cosines count.
        deviation: divide by top_n - 1 or by top_n.
        speakers: (S,) speaker of each cohort row, as a number; None: a row is a speaker.
        excluded: (N, k) speakers that must not count for each embedding, or None.

    Returns:
        mean: float64 (N,).
        std: float64 (N,).

    Raises:
        ParameterError: the cohort has fewer than `top_n` rows (less the excluded ones).
        DataError: the cosines of an embedding do not vary.
    """
    directions = normalise_length(np.asarray(embeddings))
    cohort_directions = normalise_length(np.asarray(cohort)).astype(directions.dtype)
    speaker_of_row = np.arange(len(cohort_directions)) if speakers is None else speakers
    excluded_columns = np.empty((0, len(directions))) if excluded is None else excluded.T
    check_cohort_size(top_n, np.bincount(speaker_of_row), num_excluded=len(excluded_columns))

    mean, std = np.empty(len(directions)), np.empty(len(directions))
    for rows in row_blocks(len(directions), max(1, _SCORES_PER_BLOCK // len(cohort_directions))):
        scores = directions[rows] @ cohort_directions.T  # (block, S)
        for column in excluded_columns:
            scores[column[rows, None] == speaker_of_row] = -np.inf
        scores.partition(len(cohort_directions) - top_n, axis=1)
        highest = scores[:, -top_n:]  # (block, top_n)
        mean[rows] = highest.mean(axis=1, dtype=np.float64)
        std[rows] = highest.std(axis=1, ddof=int(deviation == "unbiased"), dtype=np.float64)
    equal = std < _LEAST_DEVIATION
    if equal.any():
        raise DataError(
            f"the {top_n} highest cohort cosines of embedding {int(equal.argmax())} are all equal:"
            " the model gives the cohort's speakers the same embedding, so scores cannot be normalised"
        )
    return mean, std


def check_cohort_size(cohort_size: int, rows_of_speakers: np.ndarray, num_excluded: int = 0) -> None:
    """Refuse a cohort size that the cohort does not allow.

    Args:
        cohort_size: highest cosines that count.
        rows_of_speakers: rows of each speaker in the cohort: 1 where it is of speaker means.
        num_excluded: speakers that are left out of the cohort, whichever they are.

    Raises:
        ParameterError: naming `score.cohort_size` and its bounds.
    """
    left_out = int(np.sort(rows_of_speakers)[len(rows_of_speakers) - num_excluded :].sum())
    num_rows = int(rows_of_speakers.sum())
    if not 2 <= cohort_size <= num_rows - left_out:
        kind = "speakers" if num_rows == len(rows_of_speakers) else "utterances"
        excluded = f", {left_out} of them left out in calibration trials" if num_excluded else ""
        raise ParameterError(
            f"parameter 'score.cohort_size' is {cohort_size}, but the cohort has {num_rows} "
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
