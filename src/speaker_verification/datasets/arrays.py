"""Named arrays in groups, as a NumPy archive."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro_datasets._typing import TablePreview

from speaker_verification.common.arrays import Arrays, read_arrays, write_arrays
from speaker_verification.datasets.previews import shortened, table_preview
from speaker_verification.datasets.versioned import AtomicDataset

SHOWN_VALUES = 4


class ArraysDataset(AtomicDataset[Arrays]):
    """`.npz` file of arrays by group and name, exact and without pickles; a group may be empty."""

    def _write(self, path: Path, data: Arrays) -> None:
        write_arrays(path, data)

    def _read(self, path: Path) -> Arrays:
        return read_arrays(path)

    def preview(self) -> TablePreview:
        """Shape and first values of each array, for Kedro-Viz."""
        rows = [
            (group, name, _joined(array.shape), str(array.dtype), _joined(shortened(_first_values(array))))
            for group, arrays in self.load().items()
            for name, array in arrays.items()
        ]
        return table_preview(pd.DataFrame(rows, columns=["group", "array", "shape", "type", "first values"]))


def _first_values(array: np.ndarray) -> list[Any]:
    values: list[Any] = array.ravel()[:SHOWN_VALUES].tolist()
    return values


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
