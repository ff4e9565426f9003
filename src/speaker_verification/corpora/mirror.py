"""Mirrors: folders that hold the archives and lists of corpora, or what people make of these."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.checksums import add_file
from speaker_verification.common.errors import DataError
from speaker_verification.common.progress import progress_bar
from speaker_verification.corpora.conversion.sources import (
    ArchiveSource,
    FolderSource,
    SelectedSource,
    ShardsSource,
    Source,
    SourceFile,
    TextFile,
    listed_archives,
)
from speaker_verification.corpora.corpus import ArchivedFile, Form, part_suffix
from speaker_verification.corpora.own_corpora import ManifestSource
from speaker_verification.corpora.registry import archive_named, corpora, corpus_of, hosted_files, subsets
from speaker_verification.corpora.texts import decode_text

CHECKSUMS = "MD5SUMS"


def parse_checksums(text: str, where: object) -> dict[str, str]:
    """MD5 by file name, from lines as `md5sum` writes them.

    Raises:
        DataError: a line is of another form; `where` and its number are named.
    """
    checksums = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=1)
        if len(fields) != 2 or len(fields[0]) != 32:
            raise DataError(f"{where}, line {number}: not a checksum and a file name: {line!r}")
        checksums[fields[1].lstrip("*")] = fields[0].lower()
    return checksums


class Digests:
    """MD5s of files, computed once: a record beside the mirror keeps them by path, size and time of change.

    Paths below the record's folder are relative to it, so that both can be moved together.

    Args:
        folder: mirror in the raw layer; its record is beside it, also for mirrors elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self._record = folder.with_name(f".{folder.name}_md5.json")
        self._beside = f"{folder.parent.resolve()}/"
        self._writing = threading.Lock()
        self._known: dict[str, list[str]] = {}
        if self._record.is_file():
            known = json.loads(self._record.read_text(encoding="utf-8"))
            self._known = {name.replace(self._beside, ""): found for name, found in known.items()}

    def knows(self, paths: Sequence[Path]) -> bool:
        """Whether the MD5 of the files, unchanged since, is recorded."""
        name, state = self._state(paths)
        return self._known.get(name, [""])[0] == state

    def md5(self, paths: Sequence[Path]) -> str:
        """MD5 of the concatenation of files."""
        if not self.knows(paths):
            digest = hashlib.md5(usedforsecurity=False)
            for path in paths:
                add_file(digest, path)
            self.remember(paths, digest.hexdigest())
        return self._known[self._state(paths)[0]][1]

    def remember(self, paths: Sequence[Path], md5: str) -> None:
        """Record the MD5 of files that was computed while they were written."""
        name, state = self._state(paths)
        with self._writing:
            self._known[name] = [state, md5]
            with atomic_write(self._record) as part:
                part.write_text(json.dumps(self._known, indent=2), encoding="utf-8")

    def _state(self, paths: Sequence[Path]) -> tuple[str, str]:
        stats = [path.stat() for path in paths]
        name = " ".join(str(path.resolve()).removeprefix(self._beside) for path in paths)
        return name, " ".join(f"{found.st_size}/{found.st_mtime_ns}" for found in stats)


@dataclass(frozen=True)
class Mirror:
    """Files of a mirror, and their verification.

    Attributes:
        folder: folder of the files.
        remedy: advice for a mirror with missing or altered files.
        own: sources of the subsets of the user's own corpora, whose recordings are elsewhere.
    """

    folder: Path
    remedy: str = "copy it again"
    own: Mapping[str, ManifestSource] = field(default_factory=dict)

    def files(self, name: str) -> list[Path]:
        """The files that make up an archive or a list, in order: itself, or else its parts."""
        whole, prefix = self.folder / name, archive_named(name).part_prefix
        if whole.exists() or not prefix:
            return [whole]
        return sorted(self.folder.glob(f"{prefix}[a-z][a-z]")) or [whole]

    def source(self, subset: str) -> Source:
        """Source of a subset's recordings: its archive, or else the first other form that is there.

        That of an own corpus is its manifest.
        """
        if subset in self.own:
            return self.own[subset]
        entry = corpus_of(subset).subsets[subset]
        archive = ArchiveSource(tuple(self.files(entry.archive.name)))
        if archive.files[0].is_file():
            return archive
        return next(self._other_sources(entry.forms), archive)

    def _other_sources(self, forms: Iterable[Form]) -> Iterator[Source]:
        for form in forms:
            source: Source
            if form.path.endswith(".list"):
                if not (shard_list := self.folder / form.path).is_file():
                    continue
                source = ShardsSource(listed_archives(shard_list))
            elif form.path.endswith(".tar"):
                if not (files := tuple(sorted(self.folder.glob(form.path)))):
                    continue
                source = ShardsSource(files)
            elif (self.folder / form.path).is_dir():
                source = FolderSource(self.folder, form.path)
            else:
                continue
            yield SelectedSource(source, form.members) if form.members else source

    def list_file(self, name: str) -> TextFile:
        """The file of a trial list by its name, which may be one in a subset's archive."""
        path, file = self.folder / name, hosted_files().get(name)
        if isinstance(file, ArchivedFile) and not path.is_file():
            return SourceFile(self.source(file.subset), name)
        return path

    def describe(self, names: Sequence[str]) -> Iterator[str]:
        """A line for each corpus of some subsets: its licence, and the form of each subset."""
        for corpus in corpora():
            forms = [f"{name} from {self.source(name).form}" for name in names if name in corpus.subsets]
            if forms:
                yield f"{corpus.name} ({corpus.licence}): {'; '.join(forms)}"

    def check(self, names: Iterable[str], digests: Digests | None) -> None:
        """Check that all needed files are there and match their checksums.

        Args:
            names: needed files, archives by their whole names (`vox2_dev_aac.zip`).
            digests: record of MD5s for the comparison with the mirror's `MD5SUMS`; None: no comparison.

        Raises:
            DataError: the folder is missing, or any file is (all of them are named), or a checksum differs.
        """
        names = list(names)
        if not self.folder.is_dir():
            raise DataError(f"mirror {self.folder}: no such folder; {self.remedy}")
        checksums = self._checksums()
        missing = [path for name in names for path in self._missing(name, checksums)]
        if missing:
            raise DataError(f"mirror {self.folder} lacks {', '.join(missing)}; {self.remedy}")
        if digests:
            self._verify(names, checksums, digests)

    def _missing(self, name: str, checksums: dict[str, str]) -> list[str]:
        if (self.folder / name).is_file():
            return []
        archive, prefix = archive_named(name), archive_named(name).part_prefix
        present = [path.name for path in self.files(name) if path.is_file()]
        if not present:
            forms = [form for entry in subsets().values() if entry.archive == archive for form in entry.forms]
            if next(self._other_sources(forms), None):
                return []
            others = [form.path for form in forms if not archive.hosts]
            others += [f"{prefix}aa, ..."] if prefix else []
            return [f"{name} (or {', '.join(others)})" if others else name]
        listed = [part for part in checksums if part.startswith(prefix) and part != name]
        up_to_last = [prefix + part_suffix(index) for index in range(len(present))]
        return sorted({*listed, *up_to_last} - {*present})

    def _checksums(self) -> dict[str, str]:
        path = self.folder / CHECKSUMS
        return parse_checksums(decode_text(path.read_bytes()), path) if path.is_file() else {}

    def _verify(self, names: Sequence[str], checksums: dict[str, str], digests: Digests) -> None:
        checks: list[tuple[str, list[Path]]] = []
        for name in names:
            files = [path for path in self.files(name) if path.is_file()]  # none of an unpacked archive
            if any(path.name in checksums for path in files):
                checks += [(path.name, [path]) for path in files if path.name in checksums]
            elif files and name in checksums:
                checks.append((name, files))
        sizes = [sum(file.stat().st_size for file in files) for _, files in checks]
        with progress_bar("verify checksums", sum(sizes), in_bytes=True) as advance:
            for (name, files), size in zip(checks, sizes, strict=True):
                found = digests.md5(files)
                if found != checksums[name]:
                    raise DataError(
                        f"{self.folder / name}: MD5 is {found}, {CHECKSUMS} says {checksums[name]}; "
                        f"{self.remedy}"
                    )
                advance(size)
