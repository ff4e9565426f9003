"""Folders that nodes fill, passed as paths."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from kedro.io import Version
from kedro_datasets._typing import JSONPreview

from speaker_verification.datasets.previews import PREVIEW_ROWS, json_preview
from speaker_verification.datasets.versioned import AtomicDataset


class FolderDataset(AtomicDataset[Path]):
    """Folder that is moved into the catalog on save; loading gives its path.

    Args:
        filepath: folder, or parent of its versions.
        create: make a missing folder on load: a working folder of nodes.
        preview_file: JSON file in the folder, shown in Kedro-Viz instead of the names of its files.
        version: set by Kedro for `versioned: true`.
        metadata: settings of plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        create: bool = False,
        preview_file: str | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        self._create = create
        self._preview_file = preview_file

    @property
    def is_workplace(self) -> bool:
        """True for a working folder of nodes, made on load."""
        return self._create

    def load(self) -> Path:
        if self._create:
            Path(self._filepath).mkdir(parents=True, exist_ok=True)
        return super().load()

    def _replace(self, path: Path, data: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(data, path)  # in one step: a kill leaves the folder in one of the two places
        except OSError:  # on another disk, or over a folder that is not empty
            super()._replace(path, data)

    def _write(self, path: Path, data: Path) -> None:
        shutil.move(data, path)

    def _read(self, path: Path) -> Path:
        return path

    def _exists(self) -> bool:
        return self._create or super()._exists()

    def preview(self) -> JSONPreview:
        """The preview file of the newest version, or else the names of its files, for Kedro-Viz."""
        if not self.newest_path.exists():
            return json_preview({})
        if self._preview_file is not None:
            return json_preview(json.loads((self.newest_path / self._preview_file).read_text()))
        found = sorted(self.newest_path.iterdir())
        return json_preview([path.name for path in found[:PREVIEW_ROWS] if not path.name.startswith(".")])
