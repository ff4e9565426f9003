"""Numbers as text: two decimals for rates in %, thin separators, a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

THIN_SPACE, MINUS, DASH = "\u2009", "\u2212", "\u2013"


def count(value: int | None) -> str:
    """Whole number with thin spaces between its thousands."""
    return DASH if value is None else f"{value:,}".replace(",", THIN_SPACE)


def decimals(value: float | None, places: int = 3) -> str:
    """Number with a fixed number of decimals, and a minus sign where it is negative."""
    if value is None or value != value:
        return DASH
    return f"{value:.{places}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Rate in % with two decimals; without the sign."""
    return decimals(value, 2)


def interval(ends: Sequence[float] | None) -> str:
    """Interval of a rate in %, in brackets."""
    return DASH if ends is None else f"[{percent(ends[0])}, {percent(ends[1])}]"


def joined(names: Iterable[object]) -> str:
    """Names in a row, with `and` before the last."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
