"""Proof that a verifier gives the scores that were measured, from embeddings and from recordings."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError
from speaker_verification.deployment.recordings import (
    Recording,
    RecordingLimits,
    read_recording,
    read_waveform,
)
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
    deviations = score_deviations(verifier, scores, store, PROVEN_TRIALS)
    logger.info("The verifier's scores are those of the table up to %.2g", max(deviations.values()))
    heard = None
    if "cosine" in scores:
        heard = recording_deviations(verifier, scores, store, PROVEN_RECORDINGS, limits)
    if heard is None:
        logger.warning("the trials' recordings are not there: the verifier is proven from embeddings alone")
    else:
        logger.info("From recordings, its cosines are those of the table up to %.2g", heard["cosine"])


def score_deviations(
    verifier: Verifier, scores: pd.DataFrame, store: EmbeddingStore, num_trials: int
) -> dict[str, float]:
    """Largest difference between a verifier's scores and measured ones, from the measured embeddings.

    Args:
        verifier: verifier to prove.
        scores: table of the SCORES schema.
        store: embeddings that were scored.
        num_trials: trials that are compared, evenly spaced, at most.

    Returns:
        The difference by scoring, and of the log-likelihood ratios as `llr`.

    Raises:
        DataError: the scores differ, or the embeddings are of another model.
    """
    trials = _evenly(scores, num_trials)
    largest = _deviations(verifier, trials, store)
    name = max(largest, key=lambda scoring: largest[scoring])
    if not largest[name] <= SCORE_TOLERANCE:
        raise DataError(
            f"the verifier's {name} differs by up to {largest[name]:.3g} from the scores table: parameters "
            "under 'score' or files have changed since: run the score pipeline anew"
        )
    return largest


def recording_deviations(
    verifier: Verifier,
    scores: pd.DataFrame,
    store: EmbeddingStore,
    num_trials: int,
    limits: RecordingLimits = AS_MEASURED,
) -> dict[str, float] | None:
    """Largest difference between a verifier's scores and measured ones, from the recordings.

    Args:
        verifier: verifier to prove.
        scores: table of the SCORES schema with a column `cosine`.
        store: embeddings that were scored, whose utterances name the recordings.
        num_trials: trials that are compared, evenly spaced, at most.
        limits: limits that the recordings were read within.

    Returns:
        The difference as of `score_deviations`; None where recordings are gone.

    Raises:
        DataError: the cosines differ.
    """
    trials = _evenly(scores, num_trials)
    used = np.union1d(*(store.rows_of(trials[side]) for side in ("enroll_id", "test_id")))
    utterances = store.utterances.iloc[used].reset_index(drop=True)
    if not all(Path(file).is_file() for file in utterances["path"]):
        return None
    audio = UtteranceAudio(utterances)
    recordings = (_recording(audio, row, limits) for row in range(len(audio)))
    made = EmbeddingStore.joined([verifier.embed([recording]) for recording in recordings])
    heard = EmbeddingStore(made.embeddings, utterances, made.crops, made.model)
    largest = _deviations(verifier, trials, heard)
    if not largest["cosine"] <= COSINE_TOLERANCE:
        raise DataError(
            f"the verifier's cosine of recordings differs by up to {largest['cosine']:.3g} from the scores "
            "table: parameters under 'embed' or recordings have changed since: run the evaluate pipeline anew"
        )
    return largest


def _recording(audio: UtteranceAudio, row: int, limits: RecordingLimits) -> Recording:
    """Recording of an utterance: its file, or its samples where it is only a part of a file."""
    place = audio.place(row)
    if audio.is_file(row):
        return read_recording(place.path, limits)
    return read_waveform(audio.read(row), limits, audio.utterance_id(row))


def _deviations(verifier: Verifier, trials: pd.DataFrame, store: EmbeddingStore) -> dict[str, float]:
    rows = (store.rows_of(trials[side]) for side in ("enroll_id", "test_id"))
    columns = verifier.score(store, *rows)
    return {name: float(np.abs(trials[name] - values).max()) for name, values in columns.items()}


def _evenly(scores: pd.DataFrame, num_trials: int) -> pd.DataFrame:
    rows = np.unique(np.linspace(0, len(scores) - 1, min(num_trials, len(scores))).astype(int))
    return scores.iloc[rows]
