"""Named arrays in groups, as a NumPy archive."""

from __future__ import annotations

from pathlib import Path

from speaker_verification.common.arrays import Arrays, read_arrays, write_arrays
from speaker_verification.datasets.versioned import AtomicDataset


class ArraysDataset(AtomicDataset[Arrays]):
    """`.npz` file of arrays by group and name, exact and without pickles; a group may be empty."""

    def _write(self, path: Path, data: Arrays) -> None:
        write_arrays(path, data)

    def _read(self, path: Path) -> Arrays:
        return read_arrays(path)
