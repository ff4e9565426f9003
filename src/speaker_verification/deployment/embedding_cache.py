"""Embeddings of recordings in a file, by the recordings' contents, so that an interrupted command resumes."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.embeddings import EmbeddingStore

_TABLE = "embeddings (key TEXT PRIMARY KEY, utterance TEXT, embedding BLOB, crops BLOB)"


class EmbeddingCache:
    """Embeddings by key in a SQLite file, each kept as soon as it is made.

    Args:
        connection: the open file.
        model: digest of the weights that made all embeddings asked for.
    """

    def __init__(self, connection: sqlite3.Connection, model: str) -> None:
        self._connection = connection
        self._model = model
        connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")

    @classmethod
    @contextmanager
    def opened(cls, path: Path, model: str) -> Iterator[EmbeddingCache]:
        """Cache in a file, which is made if it is missing.

        Raises:
            DataError: the file holds something else, is in use, or cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(path)) as connection:
                yield cls(connection, model)
        except sqlite3.Error as error:
            raise DataError(f"'{path}' cannot be used to keep embeddings ({error}): remove it") from error

    def find(self, key: str) -> EmbeddingStore | None:
        """Store of one embedding; None where it was not kept."""
        query = "SELECT utterance, embedding, crops FROM embeddings WHERE key = ?"
        row = self._connection.execute(query, [key]).fetchone()
        if row is None:
            return None
        utterance, embedding, crops = row
        return EmbeddingStore(
            _array(embedding),
            pd.DataFrame(json.loads(utterance)),
            None if crops is None else _array(crops),
            self._model,
        )

    def find_or_keep(self, key: str, embed: Callable[[], EmbeddingStore]) -> EmbeddingStore:
        """Store of one embedding, which is made and kept where it was not."""
        store = self.find(key)
        if store is None:
            store = embed()
            self.keep(key, store)
        return store

    def keep(self, key: str, store: EmbeddingStore) -> None:
        """Keep a store of one embedding."""
        utterance = store.utterances.to_json(orient="records", double_precision=15)
        crops = None if store.crops is None else _bytes(store.crops)
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)",
                [key, utterance, _bytes(store.embeddings), crops],
            )


def _array(stored: bytes) -> np.ndarray:
    return np.load(io.BytesIO(stored), allow_pickle=False)


def _bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
