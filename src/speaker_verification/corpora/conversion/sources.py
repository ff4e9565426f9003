"""Sources of recordings: an archive, several of them, shards of a toolkit, or a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path, PurePosixPath

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.archives import (
    AUDIO_ENDINGS,
    DamagedMember,
    FileMember,
    Member,
    contents_digest,
    plain_name,
    read_members,
)

_SPEAKER_FIELDS = ("speaker_id", "speaker", "spk")  # of a JSON file beside a recording


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

    @property
    @abstractmethod
    def form(self) -> str:
        """Form and name, for the log."""

    def find(self, name: str) -> Member | None:
        """The first file whose path ends in a name, which may have folders; None: there is none."""
        return next((member for member in self.members() if f"/{member.name}".endswith(f"/{name}")), None)


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

    @property
    def form(self) -> str:
        more = len(self.files) - 1
        return self.files[0].name + (f" and {more} more part{'s' * (more > 1)}" if more else "")

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

    @property
    def form(self) -> str:
        return f"{len(self.files):,} archives from {self.files[0].name} to {self.files[-1].name}"

    def members(self) -> Iterator[Member]:
        for file in self.files:
            yield from read_members([file])

    def contents(self) -> str:
        digests = [contents_digest([file]) for file in self.files]
        return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest() if all(digests) else ""


@dataclass(frozen=True)
class ShardsSource(ArchivesSource):
    """Tar archives as WebDataset and wespeaker write them, in which the files of a recording share a key.

    KEY.spk names the speaker; KEY.cls or KEY.json does where KEY has no folders, which else tell him. Members
    have the path KEY.ENDING, behind the speaker unless he is in it, and without an ending within the key
    (`00001.wav.wav`).
    """

    def members(self) -> Iterator[Member]:
        for file in self.files:
            for key, siblings in groupby(read_members([file]), key=lambda member: _stem(member.name)):
                yield from _recordings(key, siblings, file)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _ending(name: str) -> str:
    return name.rpartition(".")[2]


def _recordings(key: str, siblings: Iterable[Member], archive: Path) -> Iterator[Member]:
    """The recordings of a key, by paths that name their speakers."""
    files = {_ending(member.name): member for member in siblings}
    stem = _stem(key) if _ending(key) in AUDIO_ENDINGS else key
    speaker = _speaker_of(key, files, archive)
    if speaker and f"/{speaker}/" not in f"/{stem}":
        stem = f"{speaker}/{stem}"
    for ending, member in files.items():
        if ending in AUDIO_ENDINGS:
            yield replace(member, name=f"{stem}.{ending}")


def _speaker_of(key: str, files: Mapping[str, Member], archive: Path) -> str:
    """The speaker that a file beside a recording names; empty where none does."""
    if "spk" in files:
        return _text(files["spk"], archive)
    if "/" in key:
        return ""
    if "cls" in files:
        return _text(files["cls"], archive)
    if "json" not in files:
        return ""
    try:
        fields = json.loads(_text(files["json"], archive))
        return next((str(fields[name]) for name in _SPEAKER_FIELDS if name in fields), "")
    except (ValueError, TypeError) as error:
        raise DataError(f"{archive}, {key}.json: not a JSON object: {error}") from error


def _text(member: Member, archive: Path) -> str:
    try:
        return member.read().decode("utf-8", errors="replace").strip()
    except DamagedMember as error:
        raise DataError(f"{archive}, {member.name}: {error}; copy the archive again") from error


@dataclass(frozen=True)
class FolderSource(Source):
    """Files in a folder and in all folders below it.

    Attributes:
        folder: the folder; paths of members are relative to it.
        within: folder in it that all files are in; empty: itself.
    """

    folder: Path
    within: str = ""

    def __str__(self) -> str:
        return str(self.folder / self.within)

    @property
    def form(self) -> str:
        return f"folder {self.within or self.folder.name}"

    @property
    def root(self) -> Path:
        return self.folder

    def members(self) -> list[Member]:
        return [
            FileMember(plain_name(path.relative_to(self.folder).as_posix()), size, "", path)
            for path, size, _ in self._walk(self.folder / self.within)
        ]

    def state(self) -> tuple[str, ...]:
        digest = hashlib.blake2b(digest_size=16)
        count = 0
        for path, size, changed in self._walk(self.folder / self.within):
            line = f"{path.relative_to(self.folder)} {size} {changed}\n"
            digest.update(line.encode(errors="surrogateescape"))
            count += 1
        return (f"{self.within or self.folder.name} {count} {digest.hexdigest()}",)

    def num_bytes(self) -> int:
        return sum(size for _, size, _ in self._walk(self.folder / self.within))

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


@dataclass(frozen=True)
class SelectedSource(Source):
    """Some of the files of a source.

    Attributes:
        source: the source.
        pattern: regular expression of their paths.
    """

    source: Source
    pattern: str

    def __str__(self) -> str:
        return str(self.source)

    @property
    def root(self) -> Path:
        return self.source.root

    @property
    def form(self) -> str:
        return f"a part of {self.source.form}"

    def members(self) -> Sequence[Member] | Iterator[Member]:
        found = self.source.members()
        selected = (member for member in found if re.fullmatch(self.pattern, member.name))
        return list(selected) if isinstance(found, Sequence) else selected

    def state(self) -> tuple[str, ...]:
        return self.source.state()

    def num_bytes(self) -> int:
        return self.source.num_bytes()

    def contents(self) -> str:
        return self.source.contents()


@dataclass(frozen=True)
class SourceFile:
    """A text among the recordings of a source, read as a file is.

    Attributes:
        source: the source.
        path: the end of its path there.
    """

    source: Source
    path: str

    def __str__(self) -> str:
        return f"{self.source}, {self.path}"

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.path).name

    def read_bytes(self) -> bytes:
        """Its contents; of an archive, which takes minutes to search, they are kept in memory.

        Raises:
            DataError: the source is not there, or holds no such file.
        """
        try:
            return _read(self.source, self.path, self.source.state())
        except FileNotFoundError as error:
            raise DataError(
                f"{self.source}: no such file; put {self.path} into the mirror instead"
            ) from error


@lru_cache(maxsize=1)
def _read(source: Source, path: str, state: tuple[str, ...]) -> bytes:
    member = source.find(path)
    if member is None:
        raise DataError(f"{source}: holds no {path}, which comes with these recordings")
    try:
        return member.read()
    except DamagedMember as error:
        raise DataError(f"{source}, {path}: {error}; copy it again") from error


TextFile = Path | SourceFile


def listed_archives(shard_list: Path) -> tuple[Path, ...]:
    """The archives that a list names, a path on each line; moved ones are looked for beside the list.

    Raises:
        DataError: one is missing, or the list is empty.
    """
    found = []
    folder = shard_list.parent
    for number, line in enumerate(shard_list.read_text(encoding="utf-8").splitlines(), start=1):
        if not (text := line.strip()):
            continue
        name = Path(text).name
        places = (folder / text, folder / name, folder / "shards" / name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise DataError(f"{shard_list}, line {number}: no archive {text}, nor {name} beside the list")
        found.append(path)
    if not found:
        raise DataError(f"{shard_list}: lists no archive")
    return tuple(found)
