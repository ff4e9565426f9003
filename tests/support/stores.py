"""Embedding stores of random embeddings, and calibrated scorings fitted on them."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import fit_scorings
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.sides import SideScorer


def make_store(counts: list[int], width: int = 8, seed: int = 0) -> EmbeddingStore:
    """Random embeddings that cluster by speaker; `counts` is the number of utterances of each speaker."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(len(counts)), counts)
    speakers = rng.permutation(speakers)  # a manifest need not be sorted by speaker
    centres = rng.normal(size=(len(counts), width))
    embeddings = centres[speakers] + 0.6 * rng.normal(size=(len(speakers), width)) + 0.5
    seconds = rng.uniform(1, 9, len(speakers))
    utterances = pd.DataFrame(
        {
            "utterance_id": [f"id{s:03}/session/{row:05}.wav" for row, s in enumerate(speakers)],
            "speaker_id": [f"id{s:03}" for s in speakers],
            "session_id": "session",
            "subset": "vox2-dev",
            "path": "",
            "num_samples": (16_000 * seconds).astype(np.int64),
            "duration_seconds": seconds,
        }
    )
    return EmbeddingStore(embeddings.astype(np.float32), utterances)


@functools.cache
def side_scorer(llr: str = "qmf", width: int = 8, num_speakers: int = 30) -> SideScorer:
    """Scoring fitted on random speakers."""
    cohort_set = make_store([4] * num_speakers, width, seed=7)
    settings = ScoreSettings(top_n=9, llr=llr)
    cohort = Cohort.of(cohort_set, settings.cohort, settings.centre)
    drawn = draw_calibration_trials(cohort_set.utterances["speaker_id"], 200, seed=1)
    calibration, fitted = fit_scorings(cohort_set, cohort, drawn, settings)
    return SideScorer(cohort, settings, calibration, fitted)
