"""A table with a fixed schema, checked on load and on save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import DatasetError, Version
from kedro_datasets._typing import TablePreview

from speaker_verification.datasets.versioned import AtomicDataset
from speaker_verification.tables import SCHEMAS

PREVIEW_ROWS = 20


class TableDataset(AtomicDataset[pd.DataFrame]):
    """Parquet file of one of the project's tables (see tables.py).

    Args:
        filepath: of the file; versions stand below it.
        schema: name of the table.
        version: given by Kedro for `versioned: true`.
        metadata: left to plugins.

    Raises:
        DatasetError: no such schema.
    """

    def __init__(
        self,
        *,
        filepath: str,
        schema: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        if schema not in SCHEMAS:
            raise DatasetError(f"unknown table schema '{schema}': one of {sorted(SCHEMAS)}")
        self._schema = SCHEMAS[schema]

    def _write(self, path: Path, data: pd.DataFrame) -> None:
        self._schema.conform(data).to_parquet(path, index=False)

    def _read(self, path: Path) -> pd.DataFrame:
        return self._schema.conform(pd.read_parquet(path), str(path))

    def preview(self) -> TablePreview:
        """The first rows, as Kedro-Viz shows them."""
        rows = self.load().head(PREVIEW_ROWS) if self.exists() else self._schema.empty()
        return TablePreview(rows.to_dict(orient="split"))
