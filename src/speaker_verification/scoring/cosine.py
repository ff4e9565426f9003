"""Cosine scores of centred embeddings."""

from __future__ import annotations

import numpy as np

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.blocks import ComputeBudget, forget_pages
from speaker_verification.scoring.embeddings import EmbeddingStore

_ROWS_PER_BLOCK = 1024  # of float32 embeddings: what stays in a core's cache


def check_width(embeddings: np.ndarray, cohort_width: int) -> None:
    """Refuse embeddings (N, E) of another width than the cohort's.

    Raises:
        DataError: naming both widths.
    """
    if embeddings.shape[1] != cohort_width:
        raise DataError(
            f"embeddings of width {embeddings.shape[1]} cannot be scored with a cohort of width "
            f"{cohort_width}: embed both with the same model"
        )


def check_lengths(lengths: np.ndarray, first_row: int = 0) -> None:
    """Refuse lengths (N,) of embeddings that have no direction.

    Args:
        lengths: Euclidean.
        first_row: number of the first embedding, for the message.

    Raises:
        DataError: a length is 0, which after centring means that the embedding is the mean itself, or is
            not finite; the embedding's row is named.
    """
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        row = int((np.isfinite(lengths) & (lengths > 0)).argmin())
        reason = (
            "it equals the cohort mean; does the model give every utterance the same embedding?"
            if lengths[row] == 0
            else "it is not finite"
        )
        raise DataError(f"embedding {first_row + row} has length {lengths[row]:g}: {reason}")


def centre_and_normalise(
    embeddings: np.ndarray, centre: np.ndarray | float = 0.0, first_row: int = 0
) -> np.ndarray:
    """Subtract the centre (E,) from embeddings (N, E) and scale each to length 1, in float64.

    Raises:
        DataError: as `check_lengths`.
    """
    centred = embeddings.astype(np.float64) - centre
    lengths = np.sqrt(np.einsum("ne,ne->n", centred, centred))
    check_lengths(lengths, first_row)
    centred /= lengths[:, None]
    return centred


def trial_scores(
    store: EmbeddingStore,
    centre: np.ndarray,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
) -> np.ndarray:
    """Score of each trial, float64 (trials,): the cosine of the whole utterances.

    Where the store has crops, the mean of that and of the mean cosine over all pairs of the two sides' crops.

    Source: the public implementation of J. Peng et al., SLT 2022.

    Args:
        store: embeddings of the trials' utterances.
        centre: (E,) subtracted from all of them.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: what the computation may use.
    """
    whole = cosine_scores(store.embeddings, centre, enroll_rows, test_rows, budget)
    if store.crops is None:
        return whole
    crops, (_, num_crops, width) = store.crops, store.crops.shape

    def mean_directions(rows: np.ndarray) -> np.ndarray:
        directions = centre_and_normalise(crops[rows].reshape(-1, width), centre)  # (rows V, E)
        return directions.reshape(-1, num_crops, width).mean(axis=1)

    def crop_scores(trials: slice) -> np.ndarray:
        # The mean over all pairs of products is the product of the means.
        enroll, test = mean_directions(enroll_rows[trials]), mean_directions(test_rows[trials])
        return np.einsum("te,te->t", enroll, test)

    return (whole + budget.score(len(whole), _ROWS_PER_BLOCK // num_crops + 1, crop_scores)) / 2


def cosine_scores(
    embeddings: np.ndarray,
    centre: np.ndarray,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
) -> np.ndarray:
    """Cosine of each trial's two centred embeddings, float64 (trials,).

    Nothing of the embeddings' size is kept: (x - c)(y - c) = xy - xc - yc + cc takes but one number of each
    utterance beside the products of the raw embeddings.

    Args:
        embeddings: (N, E) raw; may be a memory map.
        centre: (E,) subtracted from all of them.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: what the computation may use.

    Raises:
        DataError: the centre is of another width, or an embedding has no direction.
    """
    check_width(embeddings, len(centre))
    along_centre, lengths = np.empty((2, len(embeddings)))

    def measure(rows: slice) -> None:
        raw = embeddings[rows].astype(np.float64)
        along_centre[rows] = raw @ centre
        raw -= centre
        lengths[rows] = np.sqrt(np.einsum("ne,ne->n", raw, raw))

    budget.over_blocks(len(embeddings), _ROWS_PER_BLOCK, measure)
    check_lengths(lengths)

    def scores_of(trials: slice) -> np.ndarray:
        enroll, test = enroll_rows[trials], test_rows[trials]
        products = np.einsum("te,te->t", embeddings[enroll], embeddings[test], dtype=np.float64)
        products += centre @ centre - along_centre[enroll] - along_centre[test]
        return products / (lengths[enroll] * lengths[test])

    scores = budget.score(len(enroll_rows), _ROWS_PER_BLOCK, scores_of)
    forget_pages(embeddings)
    return scores
