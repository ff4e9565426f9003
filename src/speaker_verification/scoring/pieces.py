"""Pieces of an extraction, kept on disk, so that an extraction that was killed resumes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from speaker_verification.common.atomic import atomic_write, remove
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError

PIECE_SECONDS = 3600.0  # audio of a piece
VISIBLE_SECONDS = 60.0  # time after which a file that another host wrote is seen on a shared disk


class KeptPieces:
    """Embeddings of an extraction in pieces, each embedded by one of the processes and kept atomically.

    What is in a piece does not depend on the number of processes, so that an extraction resumes with any.

    Args:
        folder: working folder of the extraction, which all processes share.
        key: digest of what the embeddings depend on; pieces of another one are deleted.
        files: audio files, whose sizes and times of change belong to the key.
    """

    def __init__(self, folder: Path, key: str, files: Iterable[str]) -> None:
        self._group = processes()
        self._event = "/".join((*folder.parts[-2:], key))  # paths may begin otherwise on other hosts
        if self._group.is_first:
            stamped = _stamped(key, files)
            self._folder = folder / stamped
            self._folder.mkdir(parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other.name != stamped:
                    remove(other)
            self._group.announce(f"{self._event} begun", stamped)
        else:
            self._folder = folder / self._group.await_event(f"{self._event} begun")

    def own_share(self, num_pieces: int) -> list[int]:
        """Numbers of the pieces that are left for this process to embed."""
        missing = self._group.first(self._missing(num_pieces))
        return missing[self._group.rank :: self._group.size]

    def keep(self, number: int, embeddings: np.ndarray) -> None:
        """Write a piece, float32 (rows, E)."""
        with atomic_write(self._path(number)) as part, part.open("wb") as file:
            np.save(file, embeddings)

    def collect(self, num_pieces: int) -> Iterator[np.ndarray]:
        """All pieces in order, once the other processes have embedded theirs.

        Raises:
            DataError: a piece of another host does not appear in the folder.
        """
        self._group.meet(f"{self._event} embedded")
        limit = time.monotonic() + VISIBLE_SECONDS
        while missing := self._missing(num_pieces):
            if time.monotonic() > limit:
                raise DataError(
                    f"{self._folder} lacks {len(missing)} of {num_pieces} pieces that other processes have "
                    "embedded: all hosts must share this folder"
                )
            time.sleep(0.1)
        for number in range(num_pieces):
            yield np.load(self._path(number))
        self._group.meet(f"{self._event} collected")  # the first process may delete them next

    def _missing(self, num_pieces: int) -> list[int]:
        present = {path.name for path in self._folder.iterdir()}
        return [number for number in range(num_pieces) if self._path(number).name not in present]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npy"


def _stamped(key: str, files: Iterable[str]) -> str:
    """Digest of a key and of the files' sizes and times of change."""
    digest = hashlib.blake2b(key.encode(), digest_size=16)
    for stat in map(os.stat, files):
        digest.update(f" {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()
