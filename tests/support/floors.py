"""The library floors, and the imports in a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "speaker_verification"
PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / PACKAGE
GROUND = {"common"}
# A library floor, and the library floors below it.
FLOORS: dict[str, set[str]] = {
    "common": set(),
    "audio": set(),
    "corpora": {"audio"},
    "models": {"audio"},
    "scoring": {"audio", "models"},
    "data": {"audio"},
    "training": {"audio", "models", "scoring", "data"},
    "deployment": {"audio", "corpora", "models", "scoring"},
    "reporting": {"audio", "models", "scoring", "training"},
}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
