"""Walking over long arrays in pieces, so that memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterator


def row_blocks(num_rows: int, rows_per_block: int) -> Iterator[slice]:
    """Yield the slices that cover `num_rows` rows in order, each of at most `rows_per_block` rows."""
    for start in range(0, num_rows, rows_per_block):
        yield slice(start, min(start + rows_per_block, num_rows))
