"""Embeddings in the files of other toolkits: the same from every kind, and one line for what is wrong."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.embedding_files import ROWS_PER_BLOCK, open_embeddings
from tests.support.foreign import WRITERS, write_ark, write_npz
from tests.support.stores import make_store

NAMES = ["id1/a/00001.wav", "id1/b/00001.wav", "id2/a/00001.wav"]
MATRIX = np.array([[0.1, -2.5, 3.0, 1e-7], [1.0, 0.0, -1.0, 2.0], [5.0, 6.0, 7.0, 8.0]], np.float32)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_embeddings(kind: str, tmp_path: Path) -> None:
    file = open_embeddings(WRITERS[kind](tmp_path, NAMES, MATRIX))
    taken = file.take(np.array([file.names.index(name) for name in (NAMES[2], NAMES[0])]))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, MATRIX[[2, 0]])


@pytest.mark.parametrize("kind", WRITERS)
def test_files_of_several_blocks_are_read_whole(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2 * ROWS_PER_BLOCK + 3, 5)).astype(np.float32)
    names = [f"id{row}" for row in range(len(matrix))]
    file = open_embeddings(WRITERS[kind](tmp_path, names, matrix))
    rows = np.concatenate([rng.permutation(len(matrix)), [4, 4]])
    np.testing.assert_array_equal(file.take(rows), matrix[[int(file.names[row][2:]) for row in rows]])


@pytest.mark.parametrize("method", [3, 5, 7])  # two bytes a number, one byte, one byte of [0, 1]
def test_compressed_matrices_of_kaldi_are_those_of_kaldiio(method: int, tmp_path: Path) -> None:
    file = tmp_path / "compressed.ark"
    kaldiio.save_ark(str(file), {"one": MATRIX[:1], "two": MATRIX[1:2]}, compression_method=method)
    expected = dict(kaldiio.load_ark(str(file)))
    taken = open_embeddings(file).take(np.arange(2))
    np.testing.assert_allclose(
        taken, np.concatenate([expected["one"], expected["two"]]), rtol=1e-6, atol=1e-7
    )


def test_a_store_of_this_project_is_read_as_files_of_others_are(tmp_path: Path) -> None:
    store = make_store([2, 3])
    store.write(tmp_path / "store")
    file = open_embeddings(tmp_path / "store")
    assert file.names == store.utterances["utterance_id"].tolist()
    np.testing.assert_array_equal(file.take(np.arange(5)), store.embeddings)


def test_archives_of_a_script_are_found_beside_it(tmp_path: Path) -> None:
    kaldiio.save_ark(
        str(tmp_path / "x.ark"), dict(zip(NAMES, MATRIX, strict=True)), scp=str(tmp_path / "x.scp")
    )
    script = tmp_path / "x.scp"
    script.write_text(script.read_text().replace(f"{tmp_path}/", ""))
    np.testing.assert_array_equal(open_embeddings(script).take(np.arange(3)), MATRIX)


def test_columns_beside_the_embeddings_of_a_table_are_no_dimensions(tmp_path: Path) -> None:
    table = pd.DataFrame(MATRIX, columns=[f"x{place}" for place in range(4)])
    table = table.assign(utterance_id=NAMES, speaker_id="id1", duration_seconds=3.0)
    table.to_parquet(tmp_path / "wide.parquet")
    np.testing.assert_array_equal(open_embeddings(tmp_path / "wide.parquet").take(np.arange(3)), MATRIX)


def write(file: Path, content: bytes | str) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def changed(matrix: np.ndarray, value: float) -> np.ndarray:
    matrix = matrix.astype(np.float64)
    matrix[1, 2] = value
    return matrix


def two_of_a_name(folder: Path) -> Path:
    return write_npz(folder, [NAMES[0], NAMES[0], NAMES[2]], MATRIX)


def of_two_widths(folder: Path) -> Path:
    kaldiio.save_ark(str(folder / "x.ark"), {"one": MATRIX[0], "two": MATRIX[1, :3]})
    return folder / "x.ark"


def lists_of_two_widths(folder: Path) -> Path:
    table = pa.table({"utterance_id": ["one", "two"], "embedding": [[1.0, 2.0], [3.0]]})
    parquet.write_table(table, folder / "x.parquet")
    return folder / "x.parquet"


def pickled_names(folder: Path) -> Path:
    np.savez(folder / "x.npz", names=np.array(NAMES, dtype=object), embeddings=MATRIX)
    return folder / "x.npz"


def unclear_arrays(folder: Path) -> Path:
    np.savez(folder / "x.npz", names=np.array(NAMES), embeddings=MATRIX[:2])
    return folder / "x.npz"


def integers(folder: Path) -> Path:
    np.savez(folder / "x.npz", names=np.array(NAMES), embeddings=MATRIX.astype(np.int64))
    return folder / "x.npz"


def indexed_table(folder: Path) -> Path:
    table = pd.DataFrame(MATRIX, columns=list("abcd"), index=pd.Index([4, 5, 6], name="row"))
    table.assign(utterance_id=NAMES).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def cut_archive(folder: Path) -> Path:
    file = write_ark(folder, NAMES, MATRIX)
    return write(file, file.read_bytes()[:-3])


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pickle": (
        lambda folder: write(folder / "x.pkl", pickle.dumps(MATRIX)),
        r"x\.pkl: files of this kind are pickles",
    ),
    "torch": (lambda folder: write(folder / "x.pt", b""), r"x\.pt: files of this kind are pickles"),
    "pickled names": (pickled_names, r"x\.npz: the array 'names' is a pickle"),
    "pickled entry": (
        lambda folder: write(folder / "x.ark", b"one PKL\x80\x04."),
        r"x\.ark: .* of one is a pickle",
    ),
    "command": (
        lambda folder: write(folder / "x.scp", "one copy-vector ark:x.ark - |\n"),
        r"x\.scp, line 1: 'copy-vector ark:x\.ark - \|' is a command, which is not run",
    ),
    "no archive": (
        lambda folder: write(folder / "x.scp", "one y.ark:4\n"),
        r"x\.scp, line 1: no archive y\.ark",
    ),
    "no place": (
        lambda folder: write(folder / "x.scp", "\none\n"),
        r"x\.scp, line 2: 'one' is not 'NAME ARCHIVE:BYTE'",
    ),
    "no file": (lambda folder: folder / "x.npz", r"x\.npz: no such file"),
    "empty": (lambda folder: write(folder / "x.ark", b""), r"x\.ark: holds no embeddings"),
    "other kind": (
        lambda folder: write(folder / "x.h5", b"x"),
        r"x\.h5: embeddings are read from \.npz, \.ark",
    ),
    "no npz": (lambda folder: write(folder / "x.npz", b"one"), r"x\.npz: no npz file"),
    "no ark": (lambda folder: write(folder / "x.ark", b"one"), r"x\.ark: no Kaldi archive: .* at byte 0"),
    "no vector": (lambda folder: write(folder / "x.ark", b"one two "), r"x\.ark: .* of one is neither"),
    "no Parquet": (lambda folder: write(folder / "x.parquet", b"one"), r"x\.parquet: no Parquet file"),
    "cut off": (cut_archive, r"x\.ark: the embedding of id2/a/00001\.wav is cut off"),
    "integers": (integers, r"x\.npz: the array 'embeddings' is of int64"),
    "integer vector": (
        lambda folder: write(folder / "x.ark", b"one \0B\4" + struct.pack("<i", 0)),
        r"x\.ark: the embedding of one is of Kaldi's kind",
    ),
    "compressed by column": (
        lambda folder: write(folder / "x.ark", b"one \0BCM "),
        r"x\.ark: the embedding of one is of Kaldi's kind 'CM'",
    ),
    "matrix": (
        lambda folder: write_ark(folder, ["one"], MATRIX[None]),
        r"x\.ark: .* of one is a matrix of 3 x 4",
    ),
    "shapes": (unclear_arrays, r"x\.npz holds 'names', 'embeddings' of shapes \(3,\), \(2, 4\)"),
    "other column": (indexed_table, r"x\.parquet: columns row are no embeddings"),
    "two of a name": (two_of_a_name, r"x\.npz: two embeddings of id1/a/00001\.wav"),
    "two widths": (of_two_widths, r"x\.ark: the embedding of two has 3 numbers, that of one has 4"),
    "two widths of lists": (
        lists_of_two_widths,
        r"x\.parquet: the embedding of two has 1 numbers, that of one has 2",
    ),
    "not a number": (
        lambda folder: write_npz(folder, NAMES, changed(MATRIX, np.nan)),
        r"x\.npz: the embedding of id1/b/00001\.wav is not finite",
    ),
    "over float32": (
        lambda folder: write_npz(folder, NAMES, changed(MATRIX, 1e300)),
        r"x\.npz: the embedding of id1/b/00001\.wav is not finite",
    ),
}


def take_all(path: Path) -> np.ndarray:
    file = open_embeddings(path)
    return file.take(np.arange(len(file.names)))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_that_names_file_and_utterance(case: str, tmp_path: Path) -> None:
    make, message = WRONG[case]
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        take_all(path)
    assert "\n" not in str(raised.value)
