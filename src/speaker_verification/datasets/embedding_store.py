"""Embeddings of utterances, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import Version
from kedro_datasets._typing import TablePreview

from speaker_verification.datasets.previews import table_preview
from speaker_verification.datasets.versioned import AtomicDataset, folder_of_paths
from speaker_verification.scoring.embeddings import EMBEDDINGS_FILE, UTTERANCES_FILE, EmbeddingStore


class EmbeddingStoreDataset(AtomicDataset[EmbeddingStore]):
    """Folder with `embeddings.npy` (float32, N x E), `utterances.parquet` in row order, optionally crops.

    Args:
        filepath: folder, or parent of its versions.
        root: base of relative paths, as in `TableDataset`.
        version: set by Kedro for `versioned: true`.
        metadata: settings of plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        root: str | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        self._root = folder_of_paths(filepath, root)

    def _write(self, path: Path, data: EmbeddingStore) -> None:
        path.mkdir()
        data.write(path, self._root)

    def _read(self, path: Path) -> EmbeddingStore:
        return EmbeddingStore.read(path, self._root)

    def preview(self) -> TablePreview:
        """Speakers, utterances and hours of each subset, or that there is none, for Kedro-Viz."""
        columns = ["subset", "speaker_id", "duration_seconds"]
        utterances = pd.read_parquet(self.newest_path / UTTERANCES_FILE, columns=columns)
        counts = utterances.groupby("subset").agg(
            speakers=("speaker_id", "nunique"),
            utterances=("speaker_id", "size"),
            hours=("duration_seconds", lambda seconds: seconds.sum() / 3600),
        )
        counts = counts.reset_index()
        if counts.empty:
            counts = pd.DataFrame([("no set is named", 0, 0, 0.0)], columns=counts.columns)
        width = np.load(self.newest_path / EMBEDDINGS_FILE, mmap_mode="r").shape[1]
        return table_preview(counts.assign(embedding_size=width))
