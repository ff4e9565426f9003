"""The tables that floors and pipelines hand to each other, with their schemas.

All that comes after the embeddings works from these tables alone, without audio and without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from speaker_verification.common.errors import DataError


@dataclass(frozen=True)
class TableSchema:
    """Columns of a table, in order, and the ones that together name a row.

    Attributes:
        name: name of the table in messages.
        columns: names and types; no value may be missing.
        key: columns whose combination is unique; empty when rows may repeat.
        paths: columns of files' paths.
        defaults: values of columns that a table may lack.
        others: type of further columns, whose names are free, and the column that they come before; None:
            there are no further columns.
    """

    name: str
    columns: pa.Schema
    key: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    defaults: Mapping[str, str | int | bool] = field(default_factory=dict)
    others: tuple[pa.DataType, str] | None = None

    def conform(self, table: pd.DataFrame, where: str = "") -> pd.DataFrame:
        """The table with exactly these columns, in this order and of these types.

        Args:
            table: any data frame; it is not changed.
            where: file or dataset it came from, for messages.

        Raises:
            DataError: a column is missing or unknown, a value is missing or of another type, or a key
                repeats; the column and the first offending row are named.
        """
        origin = f"table '{self.name}'" + (f" ({where})" if where else "")
        absent = [name for name in self.defaults if name not in table.columns]
        missing = [name for name in self.required if name not in table.columns]
        unknown = [] if self.others else self.other_columns(table)
        if missing or unknown:
            raise DataError(f"{origin}: missing columns {missing}, unknown columns {unknown}")
        if absent:
            table = table.assign(**{name: self.defaults[name] for name in absent})
        for name in table.columns:
            empty = table[name].isna().to_numpy()
            if empty.any():
                raise DataError(f"{origin}: missing value in column '{name}', row {int(empty.argmax())}")
        columns = self._columns_of(table)
        arrays = [self._column(table, field, origin) for field in columns]
        # Columns apart are not copied.
        conformed = pa.Table.from_arrays(arrays, schema=columns).to_pandas(split_blocks=True)
        if self.key:
            repeated = conformed.duplicated(list(self.key))
            if repeated.any():
                row = int(repeated.to_numpy().argmax())
                values = ", ".join(str(conformed[name].iloc[row]) for name in self.key)
                raise DataError(f"{origin}: duplicate key {', '.join(self.key)} = {values}, row {row}")
        return conformed

    @property
    def required(self) -> list[str]:
        """Names of the columns that no table may lack."""
        return [name for name in self.columns.names if name not in self.defaults]

    def other_columns(self, table: pd.DataFrame) -> list[str]:
        """Names of a table's columns beyond those of the schema, in order."""
        return [name for name in table.columns if name not in self.columns.names]

    def _columns_of(self, table: pd.DataFrame) -> pa.Schema:
        """Columns of the schema, with the table's further ones where they belong."""
        columns = list(self.columns)
        if self.others is not None:
            kind, follower = self.others
            place = self.columns.get_field_index(follower)
            columns[place:place] = [pa.field(name, kind) for name in self.other_columns(table)]
        return pa.schema(columns)

    def _column(self, table: pd.DataFrame, field: pa.Field, origin: str) -> pa.Array:
        column = table[field.name]
        if isinstance(column.dtype, pd.CategoricalDtype) and not pa.types.is_dictionary(field.type):
            column = column.astype(column.cat.categories.dtype)
        try:
            return pa.array(column, type=field.type, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{origin}: column '{field.name}' is not {field.type}: {error}") from error

    def concat(self, tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """The rows of several such tables, one table after the other."""
        filled = [table for table in tables if len(table)]
        return self.conform(pd.concat(filled, ignore_index=True)) if filled else self.empty()

    def write(self, table: pd.DataFrame, file: Path, root: Path | None = None) -> None:
        """Write a parquet file.

        Args:
            table: rows with these columns.
            file: the file to write.
            root: folder whose files are named relative to it, so that it can be moved; others, and all where
                it is None, keep their paths.

        Raises:
            DataError: as `conform`.
        """
        prefix = f"{root}/"
        stored = table if root is None else self._with_paths(table, lambda path: path.removeprefix(prefix))
        self.conform(stored).to_parquet(file, index=False)

    def read(self, file: Path, root: Path | None = None) -> pd.DataFrame:
        """Read what `write` wrote; relative paths become absolute ones below `root`.

        Raises:
            DataError: as `conform`; the file is named.
        """
        table = pd.read_parquet(file)
        prefix = f"{root}/"
        if root is not None:
            table = self._with_paths(table, lambda path: path if path.startswith("/") else prefix + path)
        return self.conform(table, str(file))

    def _with_paths(self, table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
        return table.assign(
            **{
                name: [change(path) if isinstance(path, str) else path for path in table[name]]
                for name in self.paths
                if name in table.columns
            }
        )

    def empty(self) -> pd.DataFrame:
        """A table of these columns without rows."""
        return self.columns.empty_table().to_pandas()


# Of a few values that repeat over millions of trials: read and kept as categories.
REPEATED = pa.dictionary(pa.int32(), pa.string())

UTTERANCES = TableSchema(
    "utterances",
    pa.schema(
        {
            "utterance_id": pa.string(),  # SPEAKER/SESSION/UTTERANCE.wav
            "speaker_id": pa.string(),
            "session_id": pa.string(),
            "subset": pa.string(),  # vox1-dev, ..., librispeech-test-clean
            "path": pa.string(),  # the recording's file, or its archive (of several parts, the first one)
            "offset": pa.int64(),  # first byte in that file
            "num_bytes": pa.int64(),  # bytes there; 0: the whole file
            "deflated": pa.bool_(),  # a zip member that is to be inflated
            "codec": REPEATED,  # ending of the encoded recording (m4a, ...); empty: a 16 kHz mono s16 file
            "crc32": pa.int64(),  # of the encoded recording, inflated; 0: none is known
            "first_sample": pa.int64(),  # of the utterance in the decoded recording
            "num_samples": pa.int64(),
            "duration_seconds": pa.float64(),  # 0: not known, of embeddings from elsewhere
        }
    ),
    key=("utterance_id",),
    paths=("path",),
    defaults={"offset": 0, "num_bytes": 0, "deflated": False, "codec": "", "crc32": 0, "first_sample": 0},
)

TRIALS = TableSchema(
    "trials",
    pa.schema(
        {
            "trial_list": REPEATED,  # vox1_o, ..., librispeech_test_clean, or the user's own name
            "label": pa.int8(),  # 1 target (same speaker), 0 non-target
            "enroll_id": REPEATED,
            "test_id": REPEATED,
        }
    ),
)

TRIAL_LISTS = TableSchema(
    "trial_lists",
    pa.schema(
        {
            "trial_list": pa.string(),
            "file": pa.string(),  # its file's name, or "drawn"
            "md5": pa.string(),  # of its lines, ended as on Unix
            "num_target": pa.int64(),
            "num_nontarget": pa.int64(),
            "official": pa.bool_(),  # the published list of this name, by its number of trials and its MD5
            "num_repeated": pa.int64(),  # trials of two utterances that an earlier trial has paired
            "num_self": pa.int64(),  # trials of an utterance with itself
            "num_mislabelled": pa.int64(),  # trials whose label contradicts their speakers
        }
    ),
    key=("trial_list",),
)

SPEAKERS = TableSchema(
    "speakers",
    pa.schema(
        {
            "speaker_id": pa.string(),
            "gender": pa.string(),  # f, m, unknown
            "nationality": pa.string(),  # a country's name, unknown
        }
    ),
    key=("speaker_id",),
)

MISSING_SESSIONS = TableSchema(
    "missing_sessions",
    pa.schema(
        {
            "speaker_id": pa.string(),
            "num_listed": pa.int64(),  # sessions of the speaker that its corpus lists
            "num_missing": pa.int64(),  # of them without an utterance here; never 0
        }
    ),
    key=("speaker_id",),
)

SCORES = TableSchema(
    "scores",
    pa.schema(
        {
            "trial_list": REPEATED,
            "enroll_id": REPEATED,
            "test_id": REPEATED,
            "label": pa.int8(),
            "llr": pa.float64(),  # natural log of the likelihood ratio, calibrated
        }
    ),
    others=(pa.float64(), "llr"),  # one of each scoring, by its name
)

NOISE_CLIPS = TableSchema(
    "noise_clips",
    pa.schema(
        {
            "clip_id": pa.string(),
            "kind": pa.string(),  # noise, music, speech
            "path": pa.string(),
            "num_samples": pa.int64(),
            "num_channels": pa.int64(),
            "vocals": pa.bool_(),  # of music: false only where annotations say so
        }
    ),
    key=("clip_id",),
    paths=("path",),
    defaults={"vocals": True},
)

RIRS = TableSchema(
    "rirs",
    pa.schema(
        {
            "rir_id": pa.string(),
            "kind": pa.string(),  # simulated, real
            "path": pa.string(),
            "num_samples": pa.int64(),
            "num_channels": pa.int64(),
        }
    ),
    key=("rir_id",),
    paths=("path",),
)

REJECTED_FILES = TableSchema(
    "rejected_files",
    pa.schema(
        {
            "file_id": pa.string(),  # utterance, clip or RIR id
            "subset": pa.string(),  # vox1-dev, ..., musan, rirs_noises
            "reason": pa.string(),
        }
    ),
)

LEARNING_CURVE = TableSchema(
    "learning_curve",
    pa.schema(
        {
            "epoch": pa.int64(),  # 0 is the state before the first step
            "metric": pa.string(),
            "value": pa.float64(),
        }
    ),
    key=("epoch", "metric"),
)

SCHEMAS = {
    schema.name: schema
    for schema in (
        UTTERANCES,
        TRIALS,
        TRIAL_LISTS,
        SPEAKERS,
        MISSING_SESSIONS,
        SCORES,
        NOISE_CLIPS,
        RIRS,
        REJECTED_FILES,
        LEARNING_CURVE,
    )
}


def durations_known(utterances: pd.DataFrame) -> bool:
    """Whether a table tells the duration of every utterance."""
    return bool((utterances["duration_seconds"] > 0).all())


def require_files(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse tables whose files are elsewhere, as after a move; of each the first file is looked for.

    Args:
        tables: by name, with a column `path`.

    Raises:
        DataError: a table and a file that is not there.
    """
    for name, table in tables.items():
        if len(table) and not Path(path := table["path"].iloc[0]).exists():
            raise DataError(
                f"table '{name}': {path} is not there; after moving data, prepare the tables again"
            )
