"""Tables in text files, with previews."""

from __future__ import annotations

import re
from itertools import pairwise

from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.text import TextDataset

from speaker_verification.datasets.previews import table_preview

Columns = list[tuple[int, int]]


class CsvTableDataset(CSVDataset):
    """CSV file of a table."""

    def preview(self) -> TablePreview:
        """First rows, for Kedro-Viz."""
        return table_preview(self.load())


class TextTableDataset(TextDataset):
    """Text file of tables, each with a rule of hyphens below the names of its columns, and of remarks."""

    def preview(self) -> TablePreview:
        """All lines but rules, for Kedro-Viz; the first one names the columns."""
        lines = self.load().splitlines()
        columns: Columns = []
        rows: list[list[str]] = []
        for line, following in pairwise([*lines, ""]):
            if following.startswith("--"):
                columns = [rule.span() for rule in re.finditer("-+", following)]
            if line.strip("- "):
                rows.append(_cells(line, columns))
        return TablePreview({"columns": rows[0], "data": rows[1:]})


def _cells(line: str, columns: Columns) -> list[str]:
    """Cells of a line; one of a remark, which runs on between the columns."""
    if not columns or any(line[end:start].strip() for (_, end), (start, _) in pairwise(columns)):
        return [line.strip()]
    return [line[start:end].strip() for start, end in columns]
