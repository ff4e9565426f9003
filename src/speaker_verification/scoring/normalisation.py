"""Adaptive symmetric score normalisation with the highest cohort scores.

Source: P. Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition",
Interspeech 2017 (adaptive S-norm with the top scores of each side).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.scoring.blocks import row_blocks
from speaker_verification.scoring.cosine import normalise_length
from speaker_verification.scoring.embeddings import EmbeddingStore

Statistics = tuple[np.ndarray, np.ndarray]

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


def cohort_statistics(
    embeddings: npt.ArrayLike, cohort: npt.ArrayLike, top_n: int, excluded: np.ndarray | None = None
) -> Statistics:
    """Mean and standard deviation of each embedding's highest cohort cosines.

    Memory is bounded by blocks of rows; the highest scores are selected, not sorted.

    Args:
        embeddings: (N, E) centred embeddings; they are scaled to length 1 here.
        cohort: (S, E) centred mean embeddings of the cohort's speakers; scaled to length 1 here.
        top_n: how many of the S cosines count.
        excluded: (N, k) cohort rows that must not count for each embedding, or None.

    Returns:
        mean: float64 (N,).
        std: float64 (N,), unbiased.

    Raises:
        ParameterError: the cohort has fewer than `top_n` speakers (less the excluded ones).
        DataError: the cosines of an embedding do not vary.
    """
    directions = normalise_length(np.asarray(embeddings))
    cohort_directions = normalise_length(np.asarray(cohort)).astype(directions.dtype)
    num_excluded = 0 if excluded is None else excluded.shape[1]
    check_cohort_size(top_n, len(cohort_directions), num_excluded)

    mean, std = np.empty(len(directions)), np.empty(len(directions))
    for rows in row_blocks(len(directions), max(1, _SCORES_PER_BLOCK // len(cohort_directions))):
        scores = directions[rows] @ cohort_directions.T  # (block, S)
        if excluded is not None:
            np.put_along_axis(scores, excluded[rows], -np.inf, axis=1)
        scores.partition(len(cohort_directions) - top_n, axis=1)
        highest = scores[:, -top_n:]  # (block, top_n)
        mean[rows] = highest.mean(axis=1, dtype=np.float64)
        std[rows] = highest.std(axis=1, ddof=1, dtype=np.float64)
    equal = std < _LEAST_DEVIATION
    if equal.any():
        raise DataError(
            f"the {top_n} highest cohort cosines of embedding {int(equal.argmax())} are all equal:"
            " the model gives the cohort's speakers the same embedding, so scores cannot be normalised"
        )
    return mean, std


def check_cohort_size(cohort_size: int, num_speakers: int, num_excluded: int = 0) -> None:
    """Refuse a cohort size that the cohort's speakers do not allow.

    Raises:
        ParameterError: naming `score.cohort_size` and its bounds.
    """
    largest = num_speakers - num_excluded
    if not 2 <= cohort_size <= largest:
        left_out = f", {num_excluded} of them left out in calibration trials" if num_excluded else ""
        raise ParameterError(
            f"parameter 'score.cohort_size' is {cohort_size}, but the cohort has {num_speakers} "
            f"speakers{left_out}: take 2 to {largest}"
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
