"""Corpora that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from speaker_verification.corpora.synthetic.mirror import write_synthetic_mirror
from tests.support.corpora import TINY, write_mirror


@pytest.fixture
def mirror_folder(tmp_path: Path) -> Path:
    return write_mirror(tmp_path / "mirror")


@pytest.fixture(scope="session")
def synthetic_mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "mirror"
    write_synthetic_mirror(folder, TINY, seed=1, num_workers=2)
    return folder
