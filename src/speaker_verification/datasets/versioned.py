"""Kedro datasets whose saved versions appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io import AbstractVersionedDataset, DatasetError, Version

DataType = TypeVar("DataType")


class AtomicDataset(AbstractVersionedDataset[DataType, DataType], Generic[DataType]):
    """A local file or folder, versioned or not.

    What is saved is written to a hidden sibling and renamed: a save that is killed leaves no version behind
    that would count as the newest.

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
        path = Path(self._get_save_path())
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        _remove(beside)
        try:
            self._write(beside, data)
            _replace(beside, path)
        finally:
            _remove(beside)

    @property
    def newest_path(self) -> Path:
        """Where the version that `load` would take lies."""
        return Path(self._get_load_path())

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _replace(source: Path, target: Path) -> None:
    """Rename over the target; a folder that is in the way steps aside first."""
    if target.is_dir():
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(old)
        source.rename(target)
        _remove(old)
    else:
        os.replace(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
