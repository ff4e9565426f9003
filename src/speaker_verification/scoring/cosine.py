"""Cosine scores of centred embeddings."""

from __future__ import annotations

import numpy as np

from speaker_verification.errors import DataError
from speaker_verification.scoring.blocks import row_blocks
from speaker_verification.scoring.embeddings import EmbeddingStore

_TRIALS_PER_BLOCK = 16_384


def cohort_mean(cohort: EmbeddingStore) -> np.ndarray:
    """Mean embedding (E,), float64, over the utterances (not over the speakers) of the cohort set."""
    return cohort.embeddings.mean(axis=0, dtype=np.float64)


def centre_of(cohort: EmbeddingStore, centre: bool) -> np.ndarray:
    """What is subtracted from embeddings (E,), float64: the cohort's mean, or nothing."""
    return cohort_mean(cohort) if centre else np.zeros(cohort.embeddings.shape[1])


def normalise_length(embeddings: np.ndarray) -> np.ndarray:
    """Scale each embedding (N, E) to Euclidean length 1, in its own precision.

    Raises:
        DataError: an embedding has no direction, which after centring means that it is the mean itself.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)  # (N, 1)
    if not lengths.all():
        raise DataError(
            f"embedding {int((lengths == 0).argmax())} of {len(lengths)} has length 0 (it equals the cohort "
            "mean): the model gives every utterance the same embedding"
        )
    return embeddings / lengths


def centre_and_normalise(embeddings: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Subtract the mean (E,) from embeddings (N, E) and scale each to length 1, float32.

    Raises:
        DataError: the mean is of another width, or an embedding equals it.
    """
    if embeddings.shape[1:] != mean.shape:
        raise DataError(
            f"embeddings of width {embeddings.shape[1]} cannot be scored with a cohort of width "
            f"{mean.shape[0]}: embed both with the same model"
        )
    return normalise_length(embeddings.astype(np.float64) - mean).astype(np.float32)


def trial_scores(
    store: EmbeddingStore, centre: np.ndarray, enroll_rows: np.ndarray, test_rows: np.ndarray
) -> np.ndarray:
    """Score of each trial, float64 (trials,): the cosine of the whole utterances.

    Where the store has crops, the mean of that and of the mean cosine over all pairs of the two sides' crops.

    Source: the public implementation of J. Peng et al., SLT 2022.

    Args:
        store: embeddings of the trials' utterances.
        centre: (E,) subtracted from all of them.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
    """
    whole = cosine_scores(centre_and_normalise(store.embeddings, centre), enroll_rows, test_rows)
    if store.crops is None:
        return whole
    num_utterances, num_crops, width = store.crops.shape
    directions = centre_and_normalise(store.crops.reshape(-1, width), centre)
    # The mean over all pairs of products is the product of the means.
    mean_directions = directions.reshape(num_utterances, num_crops, width).mean(axis=1)
    return (whole + cosine_scores(mean_directions, enroll_rows, test_rows)) / 2


def cosine_scores(directions: np.ndarray, enroll_rows: np.ndarray, test_rows: np.ndarray) -> np.ndarray:
    """Cosine of each trial's two embeddings, float64 (trials,).

    Args:
        directions: embeddings (N, E) of length 1.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
    """
    scores = np.empty(len(enroll_rows))
    for trials in row_blocks(len(scores), _TRIALS_PER_BLOCK):
        enroll, test = directions[enroll_rows[trials]], directions[test_rows[trials]]
        scores[trials] = np.einsum("te,te->t", enroll, test, dtype=np.float64)
    return scores
