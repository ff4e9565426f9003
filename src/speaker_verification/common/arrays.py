"""Named arrays in groups, as a NumPy archive without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speaker_verification.common.errors import DataError

Arrays = Mapping[str, Mapping[str, np.ndarray]]


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays by group and name to an `.npz` file, the same bytes for the same arrays.

    Args:
        path: file to write or replace.
        arrays: arrays by group and name; a group may be empty.

    Raises:
        DataError: an array holds Python objects; it is named.
    """
    named: dict[str, Any] = {
        f"{group}/{name}": array for group, of_group in arrays.items() for name, array in of_group.items()
    }
    if objects := [name for name, array in named.items() if np.asarray(array).dtype.hasobject]:
        raise DataError(f"array '{objects[0]}' holds Python objects: take numbers or text")
    with path.open("wb") as file:
        np.savez(file, groups=np.array(list(arrays), dtype=str), **named)


def read_arrays(path: Path) -> Arrays:
    """Arrays by group and name that `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        groups: dict[str, dict[str, np.ndarray]] = {str(group): {} for group in stored["groups"]}
        for key in stored.files:
            group, _, name = key.partition("/")
            if name:
                groups[group][name] = stored[key]
    return groups
