"""Error rates of the model on validation trials after an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from speaker_verification.common.distributed import processes
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.extraction import extract_embeddings, utterances_in_trials
from speaker_verification.scoring.metrics import equal_error_rate, min_detection_cost

BATCH_SECONDS = 60.0  # of audio; utterances of one length alone share a batch


@dataclass(frozen=True)
class TrialSet:
    """Trials of any number of lists (TRIALS table) and just the utterances they name (UTTERANCES table)."""

    trials: pd.DataFrame
    utterances: pd.DataFrame

    @classmethod
    def of(cls, trials: pd.DataFrame, utterances: pd.DataFrame) -> TrialSet:
        """Trials, with the utterances that they name out of a larger table."""
        return cls(trials, utterances_in_trials(utterances, trials))

    def joined(self, other: TrialSet) -> TrialSet:
        """The trials of both."""
        utterances = pd.concat([self.utterances, other.utterances]).drop_duplicates("utterance_id")
        return TrialSet(
            pd.concat([self.trials, other.trials], ignore_index=True), utterances.reset_index(drop=True)
        )


def validate(model: SpeakerModel, held_out: TrialSet, monitored: TrialSet) -> dict[str, float]:
    """Cosine error rates per trial list, centred on the held-out training speakers.

    The centre depends on the model and these utterances alone, so that the same weights have the same error
    rates in whichever epoch or phase they are measured.

    Of several processes each embeds a share of the utterances.

    Args:
        model: speaker model in any mode; its embeddings are those of evaluation mode.
        held_out: validation trials; the mean embedding of their utterances is subtracted from all.
        monitored: trials of test lists to score as well.

    Returns:
        `LIST.eer` in % and `LIST.min_dcf_p01` for every trial list.
    """
    eval_set = held_out.joined(monitored)
    store = EmbeddingStore(_embed_shares(model, eval_set.utterances), eval_set.utterances)
    vectors = np.asarray(store.embeddings, dtype=np.float64)
    vectors = vectors - vectors[store.rows_of(held_out.utterances["utterance_id"])].mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rates: dict[str, float] = {}
    for name, trials in eval_set.trials.groupby("trial_list", sort=True, observed=True):
        enrolled = vectors[store.rows_of(trials["enroll_id"])]
        tested = vectors[store.rows_of(trials["test_id"])]
        scores = np.einsum("ne,ne->n", enrolled, tested)
        labels = trials["label"].to_numpy()
        rates[f"{name}.eer"] = equal_error_rate(scores, labels)[0]
        rates[f"{name}.min_dcf_p01"] = min_detection_cost(scores, labels, p_target=0.01)[0]
    return rates


def _embed_shares(model: SpeakerModel, utterances: pd.DataFrame) -> np.ndarray:
    """Embeddings float32 (N, E) of all utterances, each by one of the processes."""
    group = processes()
    # Dealt out by length, so that all processes have as much to do.
    rows = np.argsort(-utterances["num_samples"].to_numpy(), kind="stable")[group.rank :: group.size]
    embeddings = np.zeros((len(utterances), model.embedding_size), dtype=np.float32)
    if len(rows):
        own = extract_embeddings(model, utterances.iloc[rows], batch_seconds=BATCH_SECONDS, progress=False)
        embeddings[rows] = own.embeddings
    group.sum(torch.from_numpy(embeddings))  # in place, and exact: all but one are zero
    return embeddings
