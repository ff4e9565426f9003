"""Writers of embeddings in the files of other toolkits, and of the tables and lists beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import kaldiio
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

Writer = Callable[[Path, Sequence[str], np.ndarray], Path]


def write_npz(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    np.savez(folder / "x.npz", names=np.array(names), embeddings=matrix)
    return folder / "x.npz"


def write_npz_by_column(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    np.savez_compressed(folder / "x.npz", ids=np.array(names), x=np.asfortranarray(matrix.astype(np.float64)))
    return folder / "x.npz"


def write_npz_of_vectors(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    np.savez(folder / "x.npz", **dict(zip(names, matrix, strict=True)))
    return folder / "x.npz"


def write_ark(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    kaldiio.save_ark(str(folder / "x.ark"), dict(zip(names, matrix, strict=True)))
    return folder / "x.ark"


def write_ark_of_doubles(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    return write_ark(folder, names, matrix.astype(np.float64))


def write_ark_of_matrices(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    return write_ark(folder, names, matrix[:, None])


def write_text_ark(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    """Twelve digits, of which nine give a float32 back exactly."""
    kaldiio.save_ark(str(folder / "x.ark"), dict(zip(names, matrix, strict=True)), text=True)
    return folder / "x.ark"


def write_scp(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    """Two archives, the later one first."""
    half = len(names) // 2
    scripts = []
    for number, part in enumerate((slice(half), slice(half, None))):
        script, archive = (str(folder / f"x.{number}.{kind}") for kind in ("scp", "ark"))
        kaldiio.save_ark(archive, dict(zip(names[part], matrix[part], strict=True)), scp=script)
        scripts.append(Path(script).read_text())
    (folder / "x.scp").write_text("".join(reversed(scripts)))
    return folder / "x.scp"


def write_parquet_of_lists(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    parquet.write_table(
        pa.table({"utterance_id": list(names), "embedding": list(matrix)}), folder / "x.parquet"
    )
    return folder / "x.parquet"


def write_wide_parquet(folder: Path, names: Sequence[str], matrix: np.ndarray) -> Path:
    table = pd.DataFrame(matrix, columns=[f"x{column}" for column in range(matrix.shape[1])])
    table.assign(utterance_id=names).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


WRITERS: Mapping[str, Writer] = {
    "npz": write_npz,
    "npz by column": write_npz_by_column,
    "npz of vectors": write_npz_of_vectors,
    "ark": write_ark,
    "ark of doubles": write_ark_of_doubles,
    "ark of matrices": write_ark_of_matrices,
    "ark as text": write_text_ark,
    "scp": write_scp,
    "Parquet of lists": write_parquet_of_lists,
    "wide Parquet": write_wide_parquet,
}
