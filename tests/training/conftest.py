"""Fixtures of the training tests, shared with those of the data."""

from __future__ import annotations

from tests.support.tiny_models import encoder_folder as encoder_folder
from tests.support.training import catalogs as catalogs
from tests.support.training import encoder as encoder
from tests.support.training import trials as trials
from tests.support.training import utterances as utterances
from tests.support.training import work as work
