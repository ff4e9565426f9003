"""Kedro datasets whose saved versions appear whole or not at all."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io import AbstractVersionedDataset, DatasetError, Version

from speaker_verification.common.atomic import atomic_write

DataType = TypeVar("DataType")


def folder_of_paths(filepath: str, root: str | None) -> Path | None:
    """The folder that paths stored in a file are relative to, absolute.

    Args:
        filepath: of the file, which Kedro makes absolute.
        root: the folder as the configuration has it, absolute or relative to the project; None: paths are
            stored as they are.
    """
    if root is None:
        return None
    parts = Path(root).parts
    above = (folder for folder in Path(filepath).parents if parts and folder.parts[-len(parts) :] == parts)
    return next(above, Path(os.path.abspath(root)))


class AtomicDataset(AbstractVersionedDataset[DataType, DataType], Generic[DataType]):
    """A local file or folder, versioned or not.

    What is saved is written to a hidden sibling and renamed: a save that is killed leaves no version behind
    that would count as the newest. A file that would not change is left as it is.

    Args:
        filepath: of the file or folder; versions stand below it.
        version: given by Kedro for `versioned: true`.
        metadata: left to plugins, such as the layer in Kedro-Viz.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=PurePosixPath(filepath), version=version)
        self.metadata = metadata

    @abstractmethod
    def _write(self, path: Path, data: DataType) -> None:
        """Write data to a path that does not exist."""

    @abstractmethod
    def _read(self, path: Path) -> DataType:
        """Read what `_write` wrote."""

    def load(self) -> DataType:
        path = Path(self._get_load_path())
        if not path.exists():
            raise DatasetError(f"'{path}' is not there")
        return self._read(path)

    def save(self, data: DataType) -> None:
        with atomic_write(Path(self._get_save_path()), skip_if_unchanged=True) as part:
            self._write(part, data)

    @property
    def newest_path(self) -> Path:
        """Where the version that `load` would take lies."""
        return Path(self._get_load_path())

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
