from __future__ import annotations

from collections.abc import Callable

import pytest

from speaker_verification.scoring.embeddings import EmbeddingStore
from tests.support import stores


@pytest.fixture
def make_store() -> Callable[..., EmbeddingStore]:
    return stores.make_store
