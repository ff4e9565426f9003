"""Previews in Kedro-Viz: first rows of tables, and numbers of a length that is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from kedro_datasets._typing import HTMLPreview, JSONPreview, TablePreview

PREVIEW_ROWS = 50
DECIMALS = 4
SMALL, SMALL_DIGITS = 1e-3, 3  # numbers below it have significant digits instead


def table_preview(table: pd.DataFrame) -> TablePreview:
    """First rows of a table; missing values are blank."""
    rows = table.head(PREVIEW_ROWS)
    cells = rows.astype(object).where(rows.notna(), "")
    return TablePreview({"columns": [*cells.columns], "data": shortened(cells.to_numpy().tolist())})


def json_preview(value: Any) -> JSONPreview:
    """Plain values as text; of none, the empty text, which Kedro-Viz does not show."""
    return JSONPreview(json.dumps(shortened(value)) if value else "")


def html_preview(html: str) -> HTMLPreview:
    """Part of a page whose underscores and asterisks Kedro-Viz leaves as they are.

    It reads text between two of them as Markdown if they are on one line: a hidden end of line follows each.
    Other ends of lines, which it shows as line breaks, are blanks.
    """
    line = " ".join(html.split())
    return HTMLPreview(re.sub(r"([_*])(?=[^<>]*<)", r"\1<span hidden>\n</span>", line))


def shortened(value: Any) -> Any:
    """A plain value with numbers of four decimals, below 0.001 of three digits; non-finite ones are text."""
    if isinstance(value, Mapping):
        return {name: shortened(of_name) for name, of_name in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return str(value)
    return round(value, DECIMALS) if abs(value) >= SMALL else float(f"{value:.{SMALL_DIGITS}g}")
