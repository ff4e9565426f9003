"""Tables with a fixed schema, checked on load and save."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as parquet
from kedro.io import DatasetError, Version
from kedro_datasets._typing import TablePreview

from speaker_verification.common.tables import SCHEMAS
from speaker_verification.datasets.previews import PREVIEW_ROWS, table_preview
from speaker_verification.datasets.versioned import AtomicDataset, folder_of_paths

logger = logging.getLogger(__name__)


class TableDataset(AtomicDataset[pd.DataFrame]):
    """Parquet file of one of the project's tables (see tables.py).

    Args:
        filepath: file, or parent of its versions.
        schema: name of the table.
        root: base of relative paths in the file, so that a data root can be moved; loaded tables have
            absolute paths.
        version: set by Kedro for `versioned: true`.
        metadata: settings of plugins.

    Raises:
        DatasetError: unknown schema.
    """

    def __init__(
        self,
        *,
        filepath: str,
        schema: str,
        root: str | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        if schema not in SCHEMAS:
            raise DatasetError(f"unknown table schema '{schema}': one of {sorted(SCHEMAS)}")
        self._schema = SCHEMAS[schema]
        self._root = folder_of_paths(filepath, root)

    def _write(self, path: Path, data: pd.DataFrame) -> None:
        self._schema.write(data, path, self._root)

    def _read(self, path: Path) -> pd.DataFrame:
        table = self._schema.read(path, self._root)
        if self._root is not None:
            self._warn_of_another_root(path, table)
        return table

    def _warn_of_another_root(self, file: Path, table: pd.DataFrame) -> None:
        """Warn of absolute paths into the data root that this one was copied from."""
        for name in self._schema.paths:
            named = Path(table[name].iloc[0]) if len(table) else None
            if named is None or self._root is None or named.is_relative_to(self._root):
                continue
            own = [self._root.joinpath(*named.parts[start:]) for start in range(1, len(named.parts))]
            if any(path.exists() for path in own):
                logger.warning(
                    "%s refers to files of another data root, such as %s; to point it to this one, run: "
                    "kedro run --pipeline=prepare",
                    *(file, named),
                )

    def preview(self) -> TablePreview:
        """First rows as they are stored, with relative paths, for Kedro-Viz."""
        if not self.exists():
            return table_preview(self._schema.empty())
        with parquet.ParquetFile(self.newest_path) as file:
            batch = next(file.iter_batches(batch_size=PREVIEW_ROWS), None)
        return table_preview(self._schema.empty() if batch is None else batch.to_pandas())
