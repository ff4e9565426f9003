"""Fixtures of the training tests, here too."""

from __future__ import annotations

from tests.support.training import catalogs as catalogs
from tests.support.training import trials as trials
from tests.support.training import utterances as utterances
