"""Checksums of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_BYTES_PER_READ = 1 << 20


def add_file(digest: _Hash, path: str | os.PathLike[str]) -> None:
    """Update a digest with the contents of a file."""
    with Path(path).open("rb") as file:
        while block := file.read(_BYTES_PER_READ):
            digest.update(block)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()
