"""Fixtures of the whole-process tests."""

from __future__ import annotations

from tests.support.project import finished as finished
from tests.support.project import finished_copy as finished_copy
from tests.support.project import kedro as kedro
from tests.support.project import project as project
