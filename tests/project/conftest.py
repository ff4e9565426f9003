"""Fixtures of the whole-process tests, all of which bear the marker `project`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import finished as finished
from tests.support.project import finished_copy as finished_copy
from tests.support.project import kedro as kedro


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("project")
