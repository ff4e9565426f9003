"""Cosine of centred embeddings."""

from __future__ import annotations

import numpy as np

from speaker_verification.scoring.blocks import ComputeBudget, forget_pages
from speaker_verification.scoring.centring import centre_and_normalise, check_lengths, check_width
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.scorings.base import Fitted, Scoring, Trials

ROWS_PER_BLOCK = 1024  # of float32 embeddings: these stay in a core's cache


class Cosine(Scoring):
    """Cosine of the whole utterances, averaged with that of the crops where there are any."""

    name = "cosine"
    lowest, highest = -1.0, 1.0

    def score(self, trials: Trials, fitted: Fitted) -> np.ndarray:
        return two_view_scores(
            trials.store, trials.cohort.centre, trials.enroll_rows, trials.test_rows, trials.budget
        )


def two_view_scores(
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
        centre: (E,) subtracted from all embeddings.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: memory and threads of the computation.
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

    return (whole + budget.score(len(whole), ROWS_PER_BLOCK // num_crops + 1, crop_scores)) / 2


def cosine_scores(
    embeddings: np.ndarray,
    centre: np.ndarray,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
    budget: ComputeBudget,
    rows_per_block: int = ROWS_PER_BLOCK,
) -> np.ndarray:
    """Cosine of each trial's two centred embeddings, float64 (trials,).

    No copy of the embeddings is made: (x - c)(y - c) = xy - xc - yc + cc needs one number of each utterance
    beside the products of the raw embeddings.

    Args:
        embeddings: (N, E) raw; may be a memory map.
        centre: (E,) subtracted from all embeddings.
        enroll_rows: (trials,) row of each trial's enrolment utterance.
        test_rows: (trials,) row of each trial's test utterance.
        budget: memory and threads of the computation.
        rows_per_block: utterances or trials of a block.

    Raises:
        DataError: the centre has another width, or an embedding has no direction.
    """
    check_width(embeddings, len(centre))
    along_centre, lengths = np.empty((2, len(embeddings)))

    def measure(rows: slice) -> None:
        raw = embeddings[rows].astype(np.float64)
        along_centre[rows] = raw @ centre
        raw -= centre
        lengths[rows] = np.sqrt(np.einsum("ne,ne->n", raw, raw))

    budget.over_blocks(len(embeddings), rows_per_block, measure)
    check_lengths(lengths)

    def scores_of(trials: slice) -> np.ndarray:
        enroll, test = enroll_rows[trials], test_rows[trials]
        products = np.einsum("te,te->t", embeddings[enroll], embeddings[test], dtype=np.float64)
        products += centre @ centre - along_centre[enroll] - along_centre[test]
        return products / (lengths[enroll] * lengths[test])

    scores = budget.score(len(enroll_rows), rows_per_block, scores_of)
    forget_pages(embeddings)
    return scores
