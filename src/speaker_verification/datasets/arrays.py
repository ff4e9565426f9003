"""Named arrays in groups, as a NumPy archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speaker_verification.common.errors import DataError
from speaker_verification.datasets.versioned import AtomicDataset

Arrays = Mapping[str, Mapping[str, np.ndarray]]


class ArraysDataset(AtomicDataset[Arrays]):
    """`.npz` file of arrays by group and name, exact and without pickles; a group may be empty."""

    def _write(self, path: Path, data: Arrays) -> None:
        named: dict[str, Any] = {
            f"{group}/{name}": array for group, arrays in data.items() for name, array in arrays.items()
        }
        if objects := [name for name, array in named.items() if np.asarray(array).dtype.hasobject]:
            raise DataError(f"array '{objects[0]}' holds Python objects: take numbers or text")
        with path.open("wb") as file:
            np.savez(file, groups=np.array(list(data), dtype=str), **named)

    def _read(self, path: Path) -> Arrays:
        with np.load(path, allow_pickle=False) as stored:
            groups: dict[str, dict[str, np.ndarray]] = {str(group): {} for group in stored["groups"]}
            for key in stored.files:
                group, _, name = key.partition("/")
                if name:
                    groups[group][name] = stored[key]
        return groups
