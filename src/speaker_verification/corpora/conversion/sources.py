"""Sources of recordings: an archive, several of them, or a folder."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.archives import (
    FileMember,
    Member,
    contents_digest,
    plain_name,
    read_members,
)


class Source(ABC):
    """Recordings of a subset, in the form in which they are at hand."""

    @property
    @abstractmethod
    def root(self) -> Path:
        """Folder that the recordings' places are relative to, so that it can be moved."""

    @abstractmethod
    def members(self) -> Sequence[Member] | Iterator[Member]:
        """All files in it, unread: at once where there is a listing, else one by one.

        Raises:
            DataError: an archive is not whole.
        """

    @abstractmethod
    def state(self) -> tuple[str, ...]:
        """Lines by which it is known to be unchanged, each a name, a size and a time or digest."""

    @abstractmethod
    def num_bytes(self) -> int:
        """Size of all its files."""

    def contents(self) -> str:
        """A digest of its contents, which does not depend on times; empty where there is none."""
        return ""


@dataclass(frozen=True)
class ArchiveSource(Source):
    """A zip or tar archive.

    Attributes:
        files: the archive, or its parts in order.
    """

    files: Sequence[Path]

    def __str__(self) -> str:
        return str(self.files[0])

    @property
    def root(self) -> Path:
        return self.files[0].parent

    def members(self) -> Sequence[Member] | Iterator[Member]:
        return read_members(self.files)

    def state(self) -> tuple[str, ...]:
        stats = [(path.name, path.stat()) for path in self.files]
        return tuple(f"{name} {found.st_size} {found.st_mtime_ns}" for name, found in stats)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def contents(self) -> str:
        return contents_digest(self.files)


@dataclass(frozen=True)
class ArchivesSource(ArchiveSource):
    """Several archives, each whole: shards.

    Attributes:
        files: the archives in order, in one folder.
    """

    def members(self) -> Iterator[Member]:
        for file in self.files:
            yield from read_members([file])

    def contents(self) -> str:
        digests = [contents_digest([file]) for file in self.files]
        return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest() if all(digests) else ""


@dataclass(frozen=True)
class FolderSource(Source):
    """Files in a folder and in all folders below it.

    Attributes:
        folder: the folder.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def root(self) -> Path:
        return self.folder

    def members(self) -> list[Member]:
        return [
            FileMember(plain_name(path.relative_to(self.folder).as_posix()), size, "", path)
            for path, size, _ in self._walk(self.folder)
        ]

    def state(self) -> tuple[str, ...]:
        digest = hashlib.blake2b(digest_size=16)
        count = 0
        for path, size, changed in self._walk(self.folder):
            line = f"{path.relative_to(self.folder)} {size} {changed}\n"
            digest.update(line.encode(errors="surrogateescape"))
            count += 1
        return (f"{self.folder.name} {count} {digest.hexdigest()}",)

    def num_bytes(self) -> int:
        return sum(size for _, size, _ in self._walk(self.folder))

    def _walk(self, folder: Path) -> Iterator[tuple[Path, int, int]]:
        """Path, size and time of change of every file, in the order of their names."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
        for entry in entries:
            if entry.is_dir():
                yield from self._walk(Path(entry.path))
            elif entry.is_file():
                stat = entry.stat()
                yield Path(entry.path), stat.st_size, stat.st_mtime_ns
