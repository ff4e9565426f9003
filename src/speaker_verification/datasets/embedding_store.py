"""Embeddings of utterances, memory-mapped."""

from __future__ import annotations

from pathlib import Path

from speaker_verification.datasets.versioned import AtomicDataset
from speaker_verification.scoring.embeddings import EmbeddingStore


class EmbeddingStoreDataset(AtomicDataset[EmbeddingStore]):
    """Folder with `embeddings.npy` (float32, N x E) and `utterances.parquet` in row order, maybe crops."""

    def _write(self, path: Path, data: EmbeddingStore) -> None:
        path.mkdir()
        data.write(path)

    def _read(self, path: Path) -> EmbeddingStore:
        return EmbeddingStore.read(path)
