"""Embeddings of utterances, with the utterances they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.scoring.blocks import passing_over

EMBEDDINGS_FILE = "embeddings.npy"
CROPS_FILE = "crop_embeddings.npy"
UTTERANCES_FILE = "utterances.parquet"
MODEL_FILE = "model.txt"
IMPORTED = "imported: "

_ROWS_PER_CHECK = 65_536


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """One embedding for each utterance, in the order of the utterances' rows.

    Attributes:
        embeddings: float32 (N, E), N utterances of embedding width E; may be a memory map.
        utterances: N rows of the UTTERANCES schema.
        crops: float32 (N, V, E), embeddings of V crops of each utterance, or None.
        model: digest of the weights that made them, or `imported:` and the name of another toolkit's system;
            empty where it is not known.

    Raises:
        DataError: the embeddings are not a matrix, not one row for each utterance, or not finite (the
            first such utterance is named).
    """

    embeddings: np.ndarray
    utterances: pd.DataFrame
    crops: np.ndarray | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise DataError(f"embeddings have shape {self.embeddings.shape}; (utterances, width) is needed")
        if len(self.embeddings) != len(self.utterances):
            raise DataError(
                f"{len(self.embeddings)} embeddings for {len(self.utterances)} utterances: embed them anew"
            )
        self._check_finite(self.embeddings)
        if self.crops is not None:
            shape = self.crops.shape
            if len(shape) != 3 or (shape[0], shape[2]) != self.embeddings.shape:
                raise DataError(
                    f"crop embeddings of shape {shape} do not belong to {self.embeddings.shape}: embed anew"
                )
            self._check_finite(self.crops)

    @classmethod
    def empty(cls) -> EmbeddingStore:
        """Store of no utterance."""
        return cls(np.empty((0, 0), np.float32), UTTERANCES.empty())

    def _check_finite(self, embeddings: np.ndarray) -> None:
        for rows, block in passing_over(embeddings, _ROWS_PER_CHECK):
            finite = np.isfinite(block).all(axis=tuple(range(1, block.ndim)))
            if not finite.all():
                row = rows.start + int(finite.argmin())
                raise DataError(
                    f"embedding of utterance {self.utterances['utterance_id'].iloc[row]} is not finite"
                )

    @property
    def system(self) -> str | None:
        """Name of another toolkit's system that made the embeddings; None: this project made them."""
        return self.model.removeprefix(IMPORTED) if self.model.startswith(IMPORTED) else None

    def rows_of(self, utterance_ids: Sequence[str] | pd.Series) -> np.ndarray:
        """Rows of the given utterances, as `rows_of_ids`."""
        return rows_of_ids(utterance_ids, self.utterances, "have no embedding: embed them first")

    def at(self, rows: np.ndarray) -> EmbeddingStore:
        """Some of the rows (rows,)."""
        crops = None if self.crops is None else self.crops[rows]
        return EmbeddingStore(self.embeddings[rows], self.utterances.iloc[rows], crops, self.model)

    @classmethod
    def joined(cls, stores: Sequence[EmbeddingStore]) -> EmbeddingStore:
        """The rows of several stores, one after the other.

        Raises:
            DataError: the stores are of two models.
        """
        first, *others = stores
        for other in others:
            first.refuse_other_model(other)
        crops = [store.crops for store in stores if store.crops is not None]
        return cls(
            np.concatenate([store.embeddings for store in stores]),
            pd.concat([store.utterances for store in stores], ignore_index=True),
            np.concatenate(crops) if crops else None,
            next((store.model for store in stores if store.model), ""),
        )

    def refuse_other_model(self, other: EmbeddingStore) -> None:
        """Refuse to compare these embeddings with another model's.

        Raises:
            DataError: both models are known, and they differ, or the widths do.
        """
        widths = self.embeddings.shape[1], other.embeddings.shape[1]
        if widths[0] != widths[1]:
            raise DataError(f"embeddings of {widths[0]} and of {widths[1]} numbers cannot be compared")
        if self.model and other.model and self.model != other.model:
            raise DataError(
                f"embeddings of {len(self.utterances)} and of {len(other.utterances)} utterances are of two "
                "models, whose embeddings cannot be compared: embed both sets with one"
            )

    def write(self, folder: Path, root: Path | None = None) -> None:
        """Write `embeddings.npy`, `utterances.parquet`, `model.txt` and, with crops, `crop_embeddings.npy`.

        Args:
            folder: made if need be.
            root: folder whose files are named relative to it, see `TableSchema.write`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / EMBEDDINGS_FILE, self.embeddings)
        if self.crops is not None:
            np.save(folder / CROPS_FILE, self.crops)
        UTTERANCES.write(self.utterances, folder / UTTERANCES_FILE, root)
        (folder / MODEL_FILE).write_text(self.model, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, root: Path | None = None) -> EmbeddingStore:
        """Read what `write` wrote; the embeddings are mapped into memory, not loaded.

        Raises:
            DataError: the folder's files are missing or do not fit together.
        """
        for name in (EMBEDDINGS_FILE, UTTERANCES_FILE):
            if not (folder / name).is_file():
                raise DataError(f"{folder} is no embedding store: {name} is missing")
        utterances = UTTERANCES.read(folder / UTTERANCES_FILE, root)
        crops, model = folder / CROPS_FILE, folder / MODEL_FILE
        return cls(
            np.load(folder / EMBEDDINGS_FILE, mmap_mode="r"),
            utterances,
            np.load(crops, mmap_mode="r") if crops.is_file() else None,
            model.read_text(encoding="utf-8") if model.is_file() else "",
        )


def mean_of(embeddings: np.ndarray) -> np.ndarray:
    """Mean of the raw embeddings (R, ..., E) of one speaker, float32 (..., E)."""
    return embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)


def rows_of_ids(utterance_ids: Sequence[str] | pd.Series, utterances: pd.DataFrame, what: str) -> np.ndarray:
    """Rows of the given utterances in a table, int32, one for each id.

    Each distinct id is looked up once; categorical ids, as tables of trials hold, are not gone through.

    Args:
        utterance_ids: what is looked up.
        utterances: with a column utterance_id.
        what: of those that the table lacks, for the message.

    Raises:
        DataError: with the number of utterances that the table lacks and the first ten of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = pd.Series(utterance_ids).astype("category").cat
    stored = pa.array(utterances["utterance_id"], pa.large_string())
    distinct = pa.array(asked.categories, pa.large_string())
    rows = pc.index_in(distinct, stored).fill_null(-1).to_numpy()[asked.codes]
    if (rows < 0).any():
        raise missing_utterances(pd.Series(utterance_ids)[rows < 0].astype(str), what)
    return rows


def missing_utterances(utterance_ids: pd.Series, what: str) -> DataError:
    """The error that counts the distinct utterances and names the first ten."""
    missing = utterance_ids.drop_duplicates()
    return DataError(f"{len(missing)} utterances {what}; the first: {', '.join(missing.iloc[:10])}")
