"""Faulty parameters and options: name, value and remedy."""

from __future__ import annotations

from typing import Any, NamedTuple


class Fault(NamedTuple):
    """A parameter whose value does not fit, and what it must be."""

    parameter: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        return f"parameter '{self.parameter}' is {self.value!r}: {self.remedy}"
