from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from speaker_verification.scoring.embeddings import EmbeddingStore


@pytest.fixture
def make_store() -> Callable[..., EmbeddingStore]:
    """Random embeddings that cluster by speaker; `counts` is the number of utterances of each speaker."""

    def make(counts: list[int], width: int = 8, seed: int = 0) -> EmbeddingStore:
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

    return make
