"""Text files and tables as text, with previews."""

from __future__ import annotations

import re

from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.text import TextDataset

from speaker_verification.datasets.previews import table_preview


class CsvTableDataset(CSVDataset):
    """CSV file of a table."""

    def preview(self) -> TablePreview:
        """First rows, for Kedro-Viz."""
        return table_preview(self.load())


class TextTableDataset(TextDataset):
    """Text file of tables whose columns are two or more blanks apart."""

    def preview(self) -> TablePreview:
        """All lines but rules, for Kedro-Viz; the first one names the columns."""
        lines = [line.strip() for line in self.load().splitlines()]
        columns, *rows = [re.split(r" {2,}", line) for line in lines if line.strip("- ")]
        return TablePreview({"columns": columns, "data": rows})
