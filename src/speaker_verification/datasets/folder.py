"""A folder that a node fills, handed over as a path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kedro.io import Version
from kedro_datasets._typing import JSONPreview

from speaker_verification.datasets.versioned import AtomicDataset


class FolderDataset(AtomicDataset[Path]):
    """Moves the folder it is given into the catalog, and gives its path back.

    Args:
        filepath: of the folder; versions stand below it.
        create: make the folder when it is loaded and is not there: a place for nodes to work in.
        preview_file: JSON file in the folder that Kedro-Viz shows.
        version: given by Kedro for `versioned: true`.
        metadata: left to plugins.
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
        """Whether it is a place for nodes to work in."""
        return self._create

    def load(self) -> Path:
        if self._create:
            Path(self._filepath).mkdir(parents=True, exist_ok=True)
        return super().load()

    def _write(self, path: Path, data: Path) -> None:
        shutil.move(data, path)

    def _read(self, path: Path) -> Path:
        return path

    def _exists(self) -> bool:
        return self._create or super()._exists()

    def preview(self) -> JSONPreview:
        """What Kedro-Viz shows of the newest version."""
        if self._preview_file is None or not self.exists():
            return JSONPreview(json.dumps({}))
        return JSONPreview((self.newest_path / self._preview_file).read_text())
