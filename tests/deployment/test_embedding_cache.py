"""Embeddings that are kept by the contents of recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.checksums import sha256_of
from speaker_verification.common.errors import DataError
from speaker_verification.deployment.embedding_cache import EmbeddingCache
from speaker_verification.scoring.embeddings import EmbeddingStore


@pytest.mark.parametrize("num_crops", [0, 3])
def test_a_kept_embedding_is_found_to_the_last_bit(tmp_path: Path, num_crops: int) -> None:
    rng = np.random.default_rng(0)
    utterances = pd.DataFrame(
        {
            "utterance_id": ["Anna's \u201ccall\u201d.wav"],
            "num_samples": [53_211],
            "duration_seconds": [53_211 / 16_000],
        }
    )
    embeddings = rng.normal(size=(1, 8)).astype(np.float32)
    crops = rng.normal(size=(1, num_crops, 8)).astype(np.float32) if num_crops else None
    file = tmp_path / "folder" / "cache.sqlite"
    with EmbeddingCache.opened(file, "digest") as cache:
        assert cache.find("key") is None
        cache.keep("key", EmbeddingStore(embeddings, utterances, crops, "digest"))
    with EmbeddingCache.opened(file, "digest") as cache:
        found = cache.find("key")
        assert cache.find("other key") is None
    assert found is not None
    assert found.model == "digest"
    assert found.embeddings.tobytes() == embeddings.tobytes()
    assert (found.crops is None) == (crops is None)
    if crops is not None and found.crops is not None:
        assert found.crops.tobytes() == crops.tobytes()
    pd.testing.assert_frame_equal(found.utterances, utterances)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cache.sqlite"
    file.write_text("something else, of some length")
    with pytest.raises(DataError, match=r"cache\.sqlite"), EmbeddingCache.opened(file, "digest"):
        pass
    # SHA-256 of "abc", FIPS 180-2, appendix B.1
    file.write_text("abc")
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
