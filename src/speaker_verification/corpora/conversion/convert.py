"""Resumable conversion of archives to audio folders, with a record of rejected files."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from speaker_verification.audio.format import AS_IS, SAMPLE_RATE, CorpusFormat
from speaker_verification.common.atomic import atomic_write, remove
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError
from speaker_verification.common.progress import progress_bar
from speaker_verification.common.tables import REJECTED_FILES, TableSchema
from speaker_verification.corpora.conversion.archives import Member, is_recording, safe_parts
from speaker_verification.corpora.conversion.sources import Source
from speaker_verification.corpora.conversion.storing import Job, Recording, Store, store_all
from speaker_verification.corpora.corpus import Layout
from speaker_verification.corpora.registry import corpus_of

RECORDINGS = TableSchema(
    "recordings",
    pa.schema(
        {
            "file_id": pa.string(),
            "kind": pa.string(),
            "num_samples": pa.int64(),
            "num_channels": pa.int64(),
            "num_bytes": pa.int64(),
            "reason": pa.string(),
            "path": pa.string(),  # relative to the source's root; empty for converted recordings
            "offset": pa.int64(),
            "deflated": pa.bool_(),
            "codec": pa.string(),
            "crc32": pa.int64(),
            "first_sample": pa.int64(),
        }
    ),
    defaults={"path": "", "offset": 0, "deflated": False, "codec": "", "crc32": 0, "first_sample": 0},
)
DUPLICATE = "duplicate of another member of the archive"
UNSAFE = "unsafe path: absolute, with '..', or not of letters, digits, '_', '-' and '.' alone"
UNPARSED = "path that the layout of its corpus does not parse"
_MISPLACED = "not SPEAKER/SESSION/UTTERANCE.wav, .m4a or .flac"  # a reason in records of earlier versions
_NEIGHBOURS = 8  # recordings that one process takes in a row, so that the disk reads ahead what is used
_NUM_NAMED = 3  # members that a line of the log shows
_CONTENTS, _WRITTEN = "contents: ", "written: "  # lines of a marker
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """Conversion of one archive: its recordings, and the files that they become.

    Attributes:
        name: subset or corpus, for messages.
        recording_of: identity of an archive member by its path; None for a member to pass over.
        store: writer of a recording's file.
        growth: bytes on disk for every byte in the archive, by extension of the member; `.tar` for a tar
            archive, whose members are not known beforehand.
    """

    name: str
    recording_of: Callable[[str], Recording | None]
    store: Store
    growth: Mapping[str, float]


def recording_parser(layout: Layout) -> Callable[[str], Recording | None]:
    """A function that parses the paths of an archive's members.

    It returns None for members that are no recording (transcripts, licences, what an operating system has
    added) or that the layout skips, and a refused recording for an unsafe path and for one that the layout
    does not parse.
    """

    def recording_of(member: str) -> Recording | None:
        if not is_recording(member):
            return None
        if safe_parts(member) is None:
            return Recording(member, reason=UNSAFE)
        if found := layout.parse(member):
            return Recording(found.file_id, found.kind)
        return None if layout.skips(member) else Recording(member, reason=UNPARSED)

    return recording_of


@dataclass(frozen=True)
class _Marker:
    """Marker of a converted folder: the source of its recordings.

    Attributes:
        files: see `Source.state`.
        terms: format of the recordings, and the version of the checks that they passed.
        source: the source, where it is at hand.
        contents: see `Source.contents`.
        written: time of the marker in ns, before anything copied it; 0 where it is not known.
    """

    files: tuple[str, ...]
    terms: str
    source: Source | None = None
    contents: str = ""
    written: int = 0

    @classmethod
    def of(cls, source: Source, terms: str) -> _Marker:
        return cls(source.state(), terms, source)

    @classmethod
    def read(cls, marker: Path) -> _Marker | None:
        if not marker.is_file():
            return None
        lines = marker.read_text(encoding="utf-8").splitlines()
        others = [line for line in lines if not line.startswith((_CONTENTS, _WRITTEN))]
        contents, written = (
            "".join(line.removeprefix(name) for line in lines if line.startswith(name))
            for name in (_CONTENTS, _WRITTEN)
        )
        return cls(tuple(others[:-1]), others[-1] if others else "", None, contents, int(written or 0))

    def write(self, marker: Path, keep_time: bool) -> None:
        """Write the marker, with the time that it records unless a copy has lost that."""
        with atomic_write(marker) as part:
            part.touch()
            written = self.written or part.stat().st_mtime_ns
            more = (f"{_CONTENTS}{self.contents}", f"{_WRITTEN}{written}")
            part.write_text("\n".join([*self.files, self.terms, *more, ""]), encoding="utf-8")
            if keep_time:
                os.utime(part, ns=(written, written))

    def is_same_as(self, now: _Marker) -> bool:
        """Whether both are the same source on the same terms; the times of its files may differ."""
        if self.terms != now.terms or now.source is None:
            return False
        names = [[file.rpartition(" ")[0] for file in marker.files] for marker in (self, now)]
        return self.files == now.files or (
            names[0] == names[1] and self.contents != "" and self.contents == now.source.contents()
        )


class ConvertedFolder:
    """A folder of converted recordings, and the record of their conversion.

    A marker in the folder names the source's files with their sizes and times, the format, and how the
    recordings were judged: what is older than the marker came from another archive, is of another format or
    was judged otherwise, and does not count. The record is written once all of the archive was gone through:
    a row for every recording, refused ones included. With it a later run opens no file; without it, headers
    are read.

    A copy may have lost all times. An archive of another time but with the same checksums inside is the same
    one; and a folder whose marker has another time than it records counts by its record alone.

    Of several processes the first one looks into the folder, and writes marker and record; see `agree`.
    """

    def __init__(self, folder: Path, source: Source, audio_format: CorpusFormat, judged: str = "") -> None:
        self.folder = folder
        self.source = source
        self._audio_format = audio_format
        self._record = folder / ".record.parquet"
        self._terms = f"{audio_format} {judged}".rstrip()
        self._outdated: set[str] = set()
        self._sizes: dict[str, int] = {}
        if processes().is_first:
            self._since = self._mark(source)
            self._sizes = dict(self._walk(str(folder)))

    def _mark(self, source: Source) -> int:
        """Write the marker unless it is of this very source.

        Returns:
            The time, in nanoseconds, from which on files count.
        """
        marker = self.folder / ".source"
        before = _Marker.read(marker)
        now = _Marker.of(source, self._terms)
        has_times = before is not None and before.written in (0, marker.stat().st_mtime_ns)
        if before is not None and before.is_same_as(now) and (has_times or self._record.is_file()):
            if before.files != now.files:
                replace(now, contents=before.contents, written=before.written).write(marker, has_times)
            return marker.stat().st_mtime_ns if has_times else 0
        self._record.unlink(missing_ok=True)
        replace(now, contents=source.contents()).write(marker, keep_time=True)
        return marker.stat().st_mtime_ns

    def __len__(self) -> int:
        """Number of recordings in the folder that are from this archive and in this format."""
        return len(self._sizes)

    @property
    def num_bytes(self) -> int:
        """Size of all that is there."""
        return sum(self._sizes.values())

    @property
    def is_in_place(self) -> bool:
        """Whether recordings are used as they are: the folder holds nothing but the record of them."""
        return self._audio_format == AS_IS

    def name(self, file_id: str) -> str:
        """The file of a recording, below the folder."""
        return f"{file_id.removesuffix('.wav')}.{self._audio_format}"

    def holds(self, file_id: str) -> bool:
        """Whether a recording is there."""
        return self.name(file_id) in self._sizes

    def agree(self, name: str, known: pd.DataFrame, is_all: bool) -> tuple[pd.DataFrame, bool]:
        """Give all processes what the first one knows of the recordings, and what it has found in the folder.

        Args:
            name: subset or corpus.
            known: recordings that are converted already.
            is_all: whether these are the whole archive.

        Returns:
            `known` and `is_all` of the first process.
        """
        group = processes()
        group.meet(f"{name} listed")
        known, is_all, self._sizes = group.first((known, is_all, self._sizes))
        return known, is_all

    def load_record(self) -> tuple[pd.DataFrame, bool]:
        """Load the unchanged recordings of an earlier run, and whether these are the whole archive.

        Recordings whose files were altered since are dropped, so that they are converted again.
        """
        try:
            if self._record.stat().st_mtime_ns < self._since:
                return RECORDINGS.empty(), False
            table = RECORDINGS.conform(pd.read_parquet(self._record))
        except (FileNotFoundError, pa.ArrowInvalid, DataError):
            return RECORDINGS.empty(), False
        if self.is_in_place:
            return table, True
        names = [self.name(file_id) for file_id in table["file_id"]]
        sizes = np.array([self._sizes.get(name, -1) for name in names])
        is_stored = table["reason"].to_numpy() == ""
        is_altered = is_stored & (sizes != table["num_bytes"].to_numpy())
        if not is_altered.any():
            return table, True
        for row in np.flatnonzero(is_altered):
            self._sizes.pop(names[row], None)
        return table[is_stored & ~is_altered], False

    def save_record(self, table: pd.DataFrame) -> None:
        """Record the results of all recordings of the archive; remove files of other archives."""
        with atomic_write(self._record) as part:
            table.to_parquet(part, index=False)
        for name in self._outdated.difference(map(self.name, table["file_id"])):
            (self.folder / name).unlink()

    def _walk(self, folder: str, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes of the files that count; partial files of killed runs are removed."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    if entry.name.endswith(".part"):
                        remove(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._walk(entry.path, f"{prefix}{entry.name}/")
                elif (found := entry.stat()).st_mtime_ns >= self._since:
                    yield prefix + entry.name, found.st_size
                else:
                    self._outdated.add(prefix + entry.name)


def convert_source(conversion: Conversion, converted: ConvertedFolder, num_workers: int) -> pd.DataFrame:
    """Convert all recordings of a folder's source, or find their places; files of an earlier run are kept.

    Several processes, which must share the disk, each read the archive's listing, or all of a tar archive,
    and convert every N-th few of the recordings that are left; the results are those of one process.

    Args:
        conversion: conversion of the archive.
        converted: folder of the converted recordings, and their source.
        num_workers: processes that store them for this one; 0 stores in this one.

    Returns:
        Rows of `RECORDINGS`, one for every recording, refused ones included; sorted.

    Raises:
        DataError: the archive is not whole, or the disk is too small for it.
    """
    group = processes()
    members: Sequence[Member] | Iterator[Member] = ()
    known, is_all = RECORDINGS.empty(), False
    if group.is_first:
        known, is_all = converted.load_record()
        if is_all and _names_are_judged_otherwise(conversion, known):
            known, is_all = known[known["reason"] == ""], False
        if not is_all:
            members = converted.source.members()
            if not converted.is_in_place:
                _refuse_small_disk(conversion, members, converted)
    known, is_all = converted.agree(conversion.name, known, is_all)
    if is_all:
        logger.info("%s: nothing to convert, all %d recordings are converted", conversion.name, len(known))
        return known
    num_before = len(converted)
    numbers: list[int] = []
    try:
        with closing(_with_progress_bar(members or converted.source.members(), conversion.name)) as shown:
            jobs = _jobs(conversion, shown, converted, {*known["file_id"]})
            stored = store_all(_own_share(jobs, numbers), conversion.store, num_workers)
            table = as_table(stored, converted.source.root)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DataError(f"{converted.folder}: the disk is full; make room and run again to resume") from error
    group.meet(f"{conversion.name} converted")
    table = pd.concat(group.gather(table.set_axis(numbers))).sort_index()  # in the archive's order
    table = pd.concat([known, table]).sort_values(["file_id", "reason"], ignore_index=True)
    if group.is_first:
        converted.save_record(table)
    counts = {
        "recordings": len(table),
        "of them converted by an earlier run": num_before,
        "rejected": int((table["reason"] != "").sum()),
    }
    told = (f"{count:,} {what}" for what, count in counts.items() if count or what == "recordings")
    logger.info("%s: %s", conversion.name, ", ".join(told))
    return table


def _with_progress_bar(members: Iterable[Member], name: str) -> Generator[Member, None, None]:
    total = len(members) if isinstance(members, Sequence) else None
    with progress_bar(f"convert {name}", total) as advance:
        for member in members:
            yield member
            advance()


def _own_share(jobs: Iterable[Job], numbers: list[int]) -> Iterator[Job]:
    """The jobs of this process; their numbers among all jobs are added to the list."""
    group = processes()
    for number, job in enumerate(jobs):
        if number // _NEIGHBOURS % group.size == group.rank:
            numbers.append(number)
            yield job


def recordings_in(
    conversion: Conversion, members: Iterable[Member], passed_over: list[str]
) -> Iterator[tuple[Recording, Member]]:
    """The recordings among the members of an archive, judged by their names and headers.

    Args:
        conversion: conversion of the archive.
        members: members of the archive.
        passed_over: list that receives the names of the other members.

    Yields:
        Recordings with a reason where they are refused, and their members.
    """
    seen: set[str] = set()
    for member in members:
        recording = conversion.recording_of(member.name)
        if recording is None:
            passed_over.append(member.name)
            continue
        reason = recording.reason or member.refused
        if not reason and recording.file_id in seen:
            reason = DUPLICATE
        seen.add(recording.file_id)
        yield replace(recording, reason=reason), member


def _jobs(
    conversion: Conversion, members: Iterable[Member], converted: ConvertedFolder, known: Collection[str]
) -> Iterator[Job]:
    passed_over: list[str] = []
    for recording, member in recordings_in(conversion, members, passed_over):
        if recording.file_id not in known or recording.reason == DUPLICATE:
            path = None if converted.is_in_place else converted.folder / converted.name(recording.file_id)
            yield Job(recording, member, path, converted.holds(recording.file_id))
    if passed_over:
        first = ", ".join(passed_over[:_NUM_NAMED]) + (" ..." if len(passed_over) > _NUM_NAMED else "")
        logger.info(
            "%s: %d other members of its archive are passed over: %s",
            conversion.name,
            len(passed_over),
            first,
        )


def _names_are_judged_otherwise(conversion: Conversion, known: pd.DataFrame) -> bool:
    """Whether a record refuses members as misplaced that no longer are."""
    names = known.loc[known["reason"].isin([UNSAFE, UNPARSED, _MISPLACED]), "file_id"]
    return any((found := conversion.recording_of(name)) is None or not found.reason for name in names)


def _refuse_small_disk(
    conversion: Conversion, members: Sequence[Member] | Iterator[Member], converted: ConvertedFolder
) -> None:
    """Refuse a disk with less free space than an estimate of the bytes still to be written.

    Raises:
        DataError: with the number of missing bytes.
    """
    if isinstance(members, Sequence):
        files = [(os.path.splitext(member.name)[1], member.size) for member in members if not member.refused]
    else:
        files = [(".tar", converted.source.num_bytes())]
    needed = sum(size * conversion.growth.get(extension, 0) for extension, size in files)
    missing = int(needed) - converted.num_bytes - shutil.disk_usage(converted.folder).free
    if missing > 0:
        raise DataError(
            f"{converted.folder}: the disk lacks {missing} bytes for {conversion.name}, which takes about "
            f"{int(needed)}; make room, or set another data_root"
        )


def as_table(recordings: Iterable[Recording], root: Path | None = None) -> pd.DataFrame:
    """Rows of `RECORDINGS`, in the order given.

    Args:
        recordings: the recordings.
        root: folder whose files are named relative to it; None: all paths are kept.
    """
    columns = RECORDINGS.columns.names
    of_place = {"path", "offset", "deflated", "crc32"}
    attributes = [f"place.{name}" if name in of_place else name for name in columns]
    table = pd.DataFrame(map(attrgetter(*attributes), recordings), columns=columns)
    if root is not None:
        table["path"] = [path.removeprefix(f"{root}/") for path in table["path"]]
    return RECORDINGS.conform(table)


def refuse_short(recordings: pd.DataFrame, min_duration_seconds: float) -> pd.DataFrame:
    """Rows of `RECORDINGS` in which recordings of less than a duration are refused."""
    lengths = recordings["num_samples"]
    is_short = (recordings["reason"] == "") & (lengths < min_duration_seconds * SAMPLE_RATE)
    reasons = lengths.astype(str) + f" samples, shorter than {min_duration_seconds:g} s"
    return recordings.assign(reason=recordings["reason"].mask(is_short, reasons))


def rejected_files(recordings: pd.DataFrame, subset: str) -> pd.DataFrame:
    """The table of rejected files.

    Args:
        recordings: rows of `RECORDINGS`.
        subset: subset or corpus of the recordings.
    """
    refused = recordings.loc[recordings["reason"] != "", ["file_id", "reason"]]
    return REJECTED_FILES.conform(refused.assign(subset=subset))


def refuse_too_many_rejected(rejected: pd.DataFrame, num_files: int, max_rejected_fraction: float) -> None:
    """Stop when a subset holds recordings of another layout, or more unusable files than a set fraction.

    Args:
        rejected: rejected files of one subset.
        num_files: number of files of the subset, rejected ones included.
        max_rejected_fraction: fraction of them, 0 to 1, that may be rejected; none may be of another layout,
            since its speaker is not known.

    Raises:
        DataError: with the count and the first files.
    """
    unparsed = rejected.loc[rejected["reason"] == UNPARSED, "file_id"]
    if len(unparsed):
        subset = str(rejected["subset"].iloc[0])
        corpus = corpus_of(subset)
        first = ", ".join(f"'{name}'" for name in unparsed[:_NUM_NAMED])
        raise DataError(
            f"{subset} (corpus {corpus.name}): {len(unparsed)} recordings of "
            f"{corpus.subsets[subset].archive.name} are not {corpus.layout_of(subset).expected}: {first}"
            f"{' ...' if len(unparsed) > _NUM_NAMED else ''}; take them out of the archive, or "
            "prepare them as a corpus of their own (other_corpora)"
        )
    if len(rejected) > max_rejected_fraction * num_files:
        first = ", ".join(f"{row.file_id} ({row.reason})" for row in rejected.head(10).itertuples())
        raise DataError(
            f"{rejected['subset'].iloc[0]}: {len(rejected)} of {num_files} files cannot be used, more than "
            f"max_rejected_fraction ({max_rejected_fraction:g}) allows; the first are {first}"
        )
