"""Files of embeddings that other toolkits write, read in one pass: NumPy, Kaldi and Parquet.

Kaldi's formats are read by hand, because the libraries for them also run commands that a script names, or
unpickle entries; nothing that is read here can run code.
"""

from __future__ import annotations

import mmap
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError, listed
from speaker_verification.common.tables import SPEAKERS, UTTERANCES
from speaker_verification.scoring.embeddings import EMBEDDINGS_FILE, UTTERANCES_FILE

ROWS_PER_BLOCK = 4096
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")


class EmbeddingFile(ABC):
    """Embeddings by name, in the order of a file.

    Attributes:
        path: the file.
        names: names of the N embeddings.

    Raises:
        DataError: the file is not of this kind.
    """

    kind: ClassVar[str]

    path: Path
    names: list[str]

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks (rows, E) of embeddings of any float type, one after the other.

        Raises:
            DataError: an embedding is no vector, of another width than the first, or cut off.
        """

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of some rows, float32 (len(rows), E), made in one pass over the file.

        Raises:
            DataError: as `blocks`, or an embedding is not finite.
        """
        order = np.argsort(rows, kind="stable")
        rising = rows[order]
        taken: np.ndarray | None = None
        start = 0
        for block in self.blocks():
            first, last = np.searchsorted(rising, [start, start + len(block)])
            with np.errstate(over="ignore"):  # infinite then, and refused
                values = block[rising[first:last] - start].astype(np.float32)
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                name = self.names[rising[first + int(finite.argmin())]]
                raise DataError(f"{self.path}: the embedding of {name} is not finite")
            if taken is None:
                taken = np.empty((len(rows), block.shape[1]), np.float32)
            taken[order[first:last]] = values
            start += len(block)
        assert taken is not None, f"{self.path} has no blocks"
        return taken

    def _stacked(self, vectors: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks of vectors (E,) or (1, E), which come in the order of the names."""
        width = None
        named = zip(self.names, vectors, strict=True)
        while rows := list(islice(named, ROWS_PER_BLOCK)):
            for name, vector in rows:
                if vector.size != vector.shape[-1]:
                    raise DataError(
                        f"{self.path}: {name} has an array of shape {vector.shape}: one vector is needed"
                    )
                width = width or vector.size
                self._check_width(name, vector.size, width)
            yield np.stack([vector.ravel() for _, vector in rows])

    def _check_width(self, name: str, width: int, width_of_first: int) -> None:
        if width != width_of_first or not width:
            raise DataError(
                f"{self.path}: the embedding of {name} has {width} numbers, that of {self.names[0]} "
                f"has {width_of_first}"
            )


class NumpyArchive(EmbeddingFile):
    """An npz file: an array of names (N,) and a matrix (N, E), or an array (E,) for each name."""

    kind = "npz"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._arrays = {name: self._header(archive, name) for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError) as error:
            raise DataError(f"{path}: no npz file of NumPy: {error}") from error
        names = [name for name, array in self._arrays.items() if array.dtype.kind in "US"]
        self._matrix: str | None = None
        if not names:
            self.names = [name.removesuffix(".npy") for name in self._arrays]
            return
        matrices = [name for name in self._arrays if name not in names]
        shapes = [self._arrays[name].shape for name in (*names, *matrices)]
        if len(shapes) != 2 or len(shapes[0]) != 1 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0]:
            arrays = listed([f"'{name.removesuffix('.npy')}'" for name in self._arrays])
            raise DataError(
                f"{path} holds {arrays} of shapes {listed(shapes)}: one array of N names and one of N x E "
                "numbers are needed, or one vector for each name"
            )
        self._matrix = matrices[0]
        with np.load(path) as arrays:
            self.names = arrays[names[0].removesuffix(".npy")].astype(str).tolist()

    def _header(self, archive: zipfile.ZipFile, name: str) -> _Array:
        if not name.endswith(".npy"):
            raise DataError(f"{self.path} holds '{name}', which is no array of NumPy")
        with archive.open(name) as stream:
            array = _Array.read(stream)
        if array.dtype.hasobject:
            raise DataError(
                f"{self.path}: the array '{name.removesuffix('.npy')}' is a pickle, which could run code: "
                "save names as np.array(names, dtype=str) and embeddings as float32"
            )
        if array.dtype.kind not in "fUS":
            raise DataError(
                f"{self.path}: the array '{name.removesuffix('.npy')}' is of {array.dtype}, not of floats"
            )
        return array

    def blocks(self) -> Iterator[np.ndarray]:
        if self._matrix is None:
            with np.load(self.path) as arrays:
                yield from self._stacked(arrays[name] for name in self.names)
        elif self._arrays[self._matrix].by_column:
            with np.load(self.path) as arrays:
                matrix = arrays[self._matrix.removesuffix(".npy")]
            yield from np.array_split(matrix, range(ROWS_PER_BLOCK, len(matrix), ROWS_PER_BLOCK))
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._matrix) as stream:
                (_, width), _, dtype = _Array.read(stream)
                while block := stream.read(ROWS_PER_BLOCK * width * dtype.itemsize):
                    yield np.frombuffer(block, dtype).reshape(-1, width)


class _Array(NamedTuple):
    """Header of an npy file."""

    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype

    @classmethod
    def read(cls, stream: IO[bytes]) -> _Array:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return cls(*np.lib.format.read_array_header_1_0(stream))
        return cls(*np.lib.format.read_array_header_2_0(stream))


class _KaldiFile(EmbeddingFile):
    """Embeddings in archives of Kaldi, which are mapped into memory, not loaded."""

    _places: list[tuple[Path, int]]  # archive, and first byte in it, of each embedding

    def blocks(self) -> Iterator[np.ndarray]:
        return self._stacked(self._vectors())

    def _vectors(self) -> Iterator[np.ndarray]:
        archives: dict[Path, mmap.mmap] = {}
        for name, (archive, position) in zip(self.names, self._places, strict=True):
            if archive not in archives:
                archives[archive] = _mapped(archive)
            yield _value_at(archives[archive], position, f"{archive}: the embedding of {name}").vector()


class KaldiArchive(_KaldiFile):
    """An ark file, binary or as text: `NAME VECTOR`, one after the other."""

    kind = "ark"

    def __init__(self, path: Path) -> None:
        self.path, self.names, self._places = path, [], []
        data, position = _mapped(path), 0
        while position < len(data):
            end = data.find(b" ", position)
            name = data[position : max(end, position)].decode(errors="replace")
            if not name or len(name.split()) != 1:
                raise DataError(f"{path}: no Kaldi archive: no name of an embedding at byte {position}")
            self.names.append(name)
            self._places.append((path, end + 1))
            position = _value_at(data, end + 1, f"{path}: the embedding of {name}").end


class KaldiScript(_KaldiFile):
    """A scp file: `NAME ARCHIVE:BYTE` lines, archives relative to the working folder or to the file's own."""

    kind = "scp"

    def __init__(self, path: Path) -> None:
        self.path, self.names, self._places = path, [], []
        archives: dict[str, Path] = {}
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                name, _, place = line.strip().partition(" ")
                where = f"{path}, line {number}"
                if "|" in (place[-1:], place[:1]):
                    raise DataError(f"{where}: '{place}' is a command, which is not run: give an archive")
                found = re.fullmatch(r"(?P<archive>.+?)(:(?P<byte>\d+))?", place.strip())
                if found is None or place.endswith("]"):
                    raise DataError(f"{where}: {line.strip()[:200]!r} is not 'NAME ARCHIVE:BYTE'")
                archive = found["archive"]
                if archive not in archives:
                    archives[archive] = self._find(archive, where)
                self.names.append(name)
                self._places.append((archives[archive], int(found["byte"] or 0)))

    def _find(self, archive: str, where: str) -> Path:
        for file in (Path(archive), self.path.parent / archive):
            if file.is_file():
                return file
        raise DataError(f"{where}: no archive {archive}, neither in {Path.cwd()} nor in {self.path.parent}")


class _Value(NamedTuple):
    """Vector of Kaldi, or matrix of one row, and the position behind it."""

    data: mmap.mmap
    start: int
    end: int
    dtype: str | None  # None: text
    scale: tuple[float, float] | None = None  # lowest value, and step, of a compressed matrix

    def vector(self) -> np.ndarray:
        if self.dtype is None:
            return np.array(self.data[self.start : self.end].strip(b" []\r\n").split(), dtype=np.float64)
        size = (self.end - self.start) // np.dtype(self.dtype).itemsize
        numbers = np.frombuffer(self.data, self.dtype, size, self.start)
        return numbers if self.scale is None else self.scale[0] + self.scale[1] * numbers.astype(np.float64)


_PLAIN = {b"FV": "<f4", b"FM": "<f4", b"DV": "<f8", b"DM": "<f8"}  # vectors and matrices
_COMPRESSED = {b"CM2": "<u2", b"CM3": "u1"}  # matrices of steps between the lowest and the highest value


def _value_at(data: mmap.mmap, position: int, what: str) -> _Value:
    """Vector at a position.

    Raises:
        DataError: it is of another kind, no vector, or cut off.
    """
    if data[position : position + 2] != b"\0B":
        return _text_at(data, position, what)
    kind, blank, _ = data[position + 2 : position + 6].partition(b" ")
    start = position + 2 + len(kind) + len(blank)
    rows = 1
    scale = None
    try:
        if kind in _COMPRESSED:
            dtype = _COMPRESSED[kind]
            lowest, extent, rows, columns = struct.unpack_from("<ffii", data, start)
            scale = lowest, extent / np.iinfo(dtype).max
            start += 16
        elif kind in _PLAIN:
            dtype = _PLAIN[kind]
            if kind.endswith(b"M"):
                rows, columns = struct.unpack_from("<xixi", data, start)
                start += 10
            else:
                (columns,) = struct.unpack_from("<xi", data, start)
                start += 5
        else:
            named = kind.decode("ascii", errors="replace")
            raise DataError(f"{what} is of Kaldi's kind '{named}': write vectors of floats")
    except struct.error:  # the header is cut off
        rows = columns = -1
    end = start + rows * columns * np.dtype(dtype).itemsize
    if min(rows, columns) < 0 or end > len(data):
        raise DataError(f"{what} is cut off: copy the archive again")
    if rows != 1:
        raise DataError(f"{what} is a matrix of {rows} x {columns} numbers: one vector is needed")
    return _Value(data, start, end, dtype, scale)


def _text_at(data: mmap.mmap, position: int, what: str) -> _Value:
    """Vector `[ 0.1 0.2 ]` as text."""
    if data[position : position + 3] == b"PKL":
        raise DataError(f"{what} is a pickle, which could run code: write vectors of floats")
    if not data[position : position + 16].lstrip().startswith(b"["):
        raise DataError(f"{what} is neither a binary vector of Kaldi nor one as text")
    end = data.find(b"]", position) + 1
    if not end:
        raise DataError(f"{what} is cut off: copy the archive again")
    while data[end : end + 1] in (b" ", b"\r", b"\n"):
        end += 1
    return _Value(data, position, end, None)


def _mapped(path: Path) -> mmap.mmap:
    if not path.stat().st_size:
        raise DataError(f"{path}: holds no embeddings")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class ParquetTable(EmbeddingFile):
    """A Parquet file: `utterance_id` and a column of lists, or of floats one column for each dimension."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.path = path
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: no Parquet file: {error}") from error
        schema = self._file.schema_arrow
        if "utterance_id" not in schema.names:
            raise DataError(f"{path}: no column utterance_id; there are {listed(schema.names)}")
        lists = [field.name for field in schema if _is_list(field.type)]
        known = {*UTTERANCES.columns.names, *SPEAKERS.columns.names}
        self._columns = lists or [name for name in schema.names if name not in known]
        others = [
            name for name in self._columns if not lists and not pa.types.is_floating(schema.field(name).type)
        ]
        if others or len(lists) > 1 or not self._columns:
            raise DataError(
                f"{path}: columns {listed(others or self._columns)} are no embeddings: one column of lists "
                "of floats is needed, or one column of floats for each dimension"
            )
        self._of_lists = bool(lists)
        names = self._file.read(["utterance_id"]).column(0)
        if names.null_count:
            raise DataError(f"{path}: utterance_id is missing in {names.null_count} rows")
        self.names = names.cast(pa.large_string()).to_pylist()

    def blocks(self) -> Iterator[np.ndarray]:
        start, width = 0, None
        for batch in self._file.iter_batches(ROWS_PER_BLOCK, columns=self._columns):
            if self._of_lists:
                lengths = batch.column(0).value_lengths().fill_null(0).to_numpy()
                width = width or int(lengths[0])
                if len(others := np.flatnonzero((lengths != width) | (lengths == 0))):
                    row = others[0]
                    self._check_width(self.names[start + row], int(lengths[row]), width)
                yield batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            else:
                columns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
                yield np.stack(list(columns), axis=1)
            start += len(batch)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    lists = types.is_list, types.is_large_list, types.is_fixed_size_list
    return any(is_list(kind) for is_list in lists) and types.is_floating(kind.value_type)


class StoreFolder(EmbeddingFile):
    """A folder that this project has written: `embeddings.npy` beside `utterances.parquet`."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in (EMBEDDINGS_FILE, UTTERANCES_FILE):
            if not (path / name).is_file():
                raise DataError(f"{path} is no embedding store: {name} is missing")
        self._embeddings = np.load(path / EMBEDDINGS_FILE, mmap_mode="r")
        self.names = pd.read_parquet(path / UTTERANCES_FILE, columns=["utterance_id"])[
            "utterance_id"
        ].tolist()

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self._embeddings), ROWS_PER_BLOCK):
            yield self._embeddings[start : start + ROWS_PER_BLOCK]


EMBEDDING_FILES: Mapping[str, type[EmbeddingFile]] = {
    kind.kind: kind for kind in (NumpyArchive, KaldiArchive, KaldiScript, ParquetTable, StoreFolder)
}


def open_embeddings(path: Path) -> EmbeddingFile:
    """Embeddings of a file, by the kind that its ending tells.

    Raises:
        DataError: the file is missing, of an unknown kind, a pickle, malformed or empty, or has two
            embeddings of a name.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path}: files of this kind are pickles, which could run code: save the embeddings as .npz, "
            ".ark or .parquet first"
        )
    kind = StoreFolder.kind if path.is_dir() else path.suffix.lower().removeprefix(".")
    if kind not in EMBEDDING_FILES:
        known = ", ".join(f".{name}" for name in EMBEDDING_FILES if name != StoreFolder.kind)
        raise DataError(f"{path}: embeddings are read from {known} and folders with {EMBEDDINGS_FILE}")
    if not path.exists():
        raise DataError(f"{path}: no such file of embeddings")
    file = EMBEDDING_FILES[kind](path)
    if not file.names:
        raise DataError(f"{path}: holds no embeddings")
    repeated = pd.Index(file.names).duplicated()
    if repeated.any():
        raise DataError(f"{path}: two embeddings of {file.names[int(repeated.argmax())]}")
    return file
