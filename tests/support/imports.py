"""Import path of tests that import modules which they write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def import_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty folder on the import path; the test's end forgets the modules that were imported from it."""
    folder = tmp_path / "import_folder"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget_modules(folder)


def forget_modules(folder: Path) -> None:
    """Remove from sys.modules all that was imported from the folder."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
            del sys.modules[name]
    importlib.invalidate_caches()
