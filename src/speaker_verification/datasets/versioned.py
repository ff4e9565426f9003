"""Atomic, versioned Kedro datasets."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io import AbstractVersionedDataset, DatasetError, Version

from speaker_verification.common.atomic import atomic_write

DataType = TypeVar("DataType")


def folder_of_paths(filepath: str, root: str | None) -> Path | None:
    """Absolute base folder of the relative paths in a file.

    Args:
        filepath: absolute path of the file (Kedro makes it so).
        root: configured base folder, absolute or relative to the project; None: paths are stored unchanged.
    """
    if root is None:
        return None
    parts = Path(root).parts
    above = (folder for folder in Path(filepath).parents if parts and folder.parts[-len(parts) :] == parts)
    return next(above, Path(os.path.abspath(root)))


class AtomicDataset(AbstractVersionedDataset[DataType, DataType], Generic[DataType]):
    """Local file or folder, versioned or not, saved atomically.

    Data are written to a hidden sibling that is then renamed, so a killed save leaves no partial version that
    would count as the newest. An unchanged file is kept.

    Args:
        filepath: file or folder, or parent of its versions.
        version: set by Kedro for `versioned: true`.
        metadata: settings of plugins, such as the layer in Kedro-Viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=PurePosixPath(filepath), version=version)
        self.metadata = metadata

    @abstractmethod
    def _write(self, path: Path, data: DataType) -> None:
        """Write data to a path that does not exist yet."""

    @abstractmethod
    def _read(self, path: Path) -> DataType:
        """Read what `_write` wrote."""

    def load(self) -> DataType:
        path = Path(self._get_load_path())
        if not path.exists():
            raise DatasetError(f"'{path}' does not exist")
        return self._read(path)

    def save(self, data: DataType) -> None:
        self._replace(Path(self._get_save_path()), data)

    def _replace(self, path: Path, data: DataType) -> None:
        """Write data to a path atomically."""
        with atomic_write(path, skip_if_unchanged=True) as part:
            self._write(part, data)

    @property
    def newest_path(self) -> Path:
        """Path of the version that `load` reads."""
        return Path(self._get_load_path())

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
