"""Tables as lines of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(
    header: Sequence[str], lines: Sequence[Sequence[str]], text_columns: Collection[str] = ()
) -> list[str]:
    """Header, rule and lines in straight columns, numbers on the right.

    Args:
        header: names of the columns.
        lines: cells of each line.
        text_columns: names of the columns that stand on the left.
    """
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line_of(cells: Sequence[str]) -> str:
        columns = zip(cells, header, widths, strict=True)
        return "  ".join(
            cell.ljust(width) if name in text_columns else cell.rjust(width) for cell, name, width in columns
        ).rstrip()

    return [line_of(header), "  ".join("-" * width for width in widths), *map(line_of, lines)]
