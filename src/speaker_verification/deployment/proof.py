"""Proof that a verifier gives the scores that were measured, from embeddings and from recordings."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.deployment.recordings import RecordingLimits, read_recording
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.scoring.embeddings import EmbeddingStore

# Trials have recordings that a user's would be refused for.
AS_MEASURED = RecordingLimits(
    least_seconds=1e-3,
    least_speech_seconds=0,
    max_seconds=None,
    refused_clipped_fraction=1,
    silence_dbfs=-1000,
)
SCORE_TOLERANCE = 1e-3  # of scores of the same embeddings, whose cosines are computed in float32
COSINE_TOLERANCE = 1e-2  # of cosines of embeddings made anew, maybe on another device
PROVEN_TRIALS, PROVEN_RECORDINGS = 10_000, 8  # from embeddings, and from recordings

logger = logging.getLogger(__name__)


def prove(
    verifier: Verifier, scores: pd.DataFrame, store: EmbeddingStore, limits: RecordingLimits = AS_MEASURED
) -> None:
    """Compare a verifier's scores with those of a table, from embeddings and from recordings.

    Args:
        verifier: verifier to prove, as it was loaded.
        scores: table of the SCORES schema.
        store: embeddings that were scored, whose utterances name the recordings.
        limits: limits that the recordings were read within.

    Raises:
        DataError: scores differ, or the embeddings are of another model.
    """
    deviation = score_deviation(verifier, scores, store, PROVEN_TRIALS)
    logger.info("The verifier's scores are those of the table up to %.2g", deviation)
    heard = None
    if "cosine" in scores:
        heard = recording_deviation(verifier, scores, store, PROVEN_RECORDINGS, limits)
    if heard is None:
        logger.warning("the trials' recordings are not there: the verifier is proven from embeddings alone")
    else:
        logger.info("From recordings, its cosines are those of the table up to %.2g", heard)


def score_deviation(
    verifier: Verifier, scores: pd.DataFrame, store: EmbeddingStore, num_trials: int
) -> float:
    """Largest difference between a verifier's scores and measured ones, from the measured embeddings.

    Args:
        verifier: verifier to prove.
        scores: table of the SCORES schema.
        store: embeddings that were scored.
        num_trials: trials that are compared, evenly spaced, at most.

    Raises:
        DataError: the scores differ, or the embeddings are of another model.
    """
    trials = _evenly(scores, num_trials)
    columns = verifier.score(store, store.rows_of(trials["enroll_id"]), store.rows_of(trials["test_id"]))
    largest = {name: float(np.abs(trials[name] - values).max()) for name, values in columns.items()}
    name = max(largest, key=lambda scoring: largest[scoring])
    if not largest[name] <= SCORE_TOLERANCE:
        raise DataError(
            f"the verifier's {name} differs by up to {largest[name]:.3g} from the scores table: parameters "
            "under 'score' or files have changed since: run the score pipeline anew"
        )
    return largest[name]


def recording_deviation(
    verifier: Verifier,
    scores: pd.DataFrame,
    store: EmbeddingStore,
    num_trials: int,
    limits: RecordingLimits = AS_MEASURED,
) -> float | None:
    """Largest difference between a verifier's cosines and measured ones, from the recordings.

    Args:
        verifier: verifier to prove.
        scores: table of the SCORES schema with a column `cosine`.
        store: embeddings that were scored, whose utterances name the recordings.
        num_trials: trials that are compared, evenly spaced, at most.
        limits: limits that the recordings were read within.

    Returns:
        The difference; None where recordings are gone.

    Raises:
        DataError: the cosines differ.
    """
    trials = _evenly(scores, num_trials)
    files = {
        side: store.utterances["path"].iloc[store.rows_of(trials[side])].tolist()
        for side in ("enroll_id", "test_id")
    }
    if not all(Path(file).is_file() for side in files.values() for file in side):
        return None
    largest = 0.0
    for enroll, test, cosine in zip(*files.values(), trials["cosine"], strict=True):
        made = verifier.embed([read_recording(file, limits) for file in (enroll, test)])
        found = verifier.score(made, [0], [1])["cosine"][0]
        largest = max(largest, abs(float(found - cosine)))
    if not largest <= COSINE_TOLERANCE:
        raise DataError(
            f"the verifier's cosine of recordings differs by up to {largest:.3g} from the scores table: "
            "parameters under 'embed' or recordings have changed since: run the evaluate pipeline anew"
        )
    return largest


def _evenly(scores: pd.DataFrame, num_trials: int) -> pd.DataFrame:
    rows = np.unique(np.linspace(0, len(scores) - 1, min(num_trials, len(scores))).astype(int))
    return scores.iloc[rows]
