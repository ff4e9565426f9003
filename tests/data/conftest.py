from __future__ import annotations

from tests.training.conftest import catalogs as catalogs
from tests.training.conftest import trials as trials
from tests.training.conftest import utterances as utterances
from tests.training.conftest import work as work
