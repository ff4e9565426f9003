"""Zip and tar archives, whole or in parts, read without joining or unpacking them on disk."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

from speaker_verification.audio.places import MAX_BYTES, Place
from speaker_verification.common.errors import DataError

AUDIO_ENDINGS = frozenset(
    ("wav", "m4a", "flac", "aac", "aif", "aiff", "mp2", "mp3", "mp4", "oga", "ogg", "opus", "sph", "wma")
)
_LONGEST_PART = 200  # bytes; file systems take 255
_ASCII_PART = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{,{_LONGEST_PART - 1}}}")
_MAC_EXTRAS = "__MACOSX"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of its name and extra field
_GZIP = b"\x1f\x8b"
_GZIP_TRAILER = 8  # bytes: CRC-32 and size of the uncompressed data
_ENCRYPTED, _UTF_8 = 1, 0x800  # bits of a zip member's flags
_DOS_FOLDER = 0x10  # bit of its external attributes


class DamagedMember(Exception):
    """Size or checksum of an archive member is wrong."""


class JoinedFiles(io.RawIOBase):
    """Several files read as one seekable stream, in the order given; each is opened once it is read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stack = ExitStack()
        self._files: dict[int, IO[bytes]] = {}
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if origin + offset < 0:
            raise OSError("seek before the start of the stream")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        index = bisect_right(self._ends, self._position)
        if index == len(self._ends):
            return 0
        if index not in self._files:
            self._files[index] = self._stack.enter_context(self._paths[index].open("rb", buffering=0))
        start = self._ends[index - 1] if index else 0
        file = self._files[index]
        file.seek(self._position - start)
        data = file.read(min(len(buffer), self._ends[index] - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._stack.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Member(ABC):
    """A file in an archive, which any process can read.

    Attributes:
        name: its path in the archive in one form (see `plain_name`), which may lead anywhere: see
            `safe_parts`.
        size: bytes when unpacked, as declared.
        refused: why it must not be read, else empty.
    """

    name: str
    size: int
    refused: str

    @abstractmethod
    def read(self) -> bytes:
        """Unpack it, into no more memory than it declares.

        Raises:
            DamagedMember: its size or checksum is wrong.
        """

    @property
    def codec(self) -> str:
        """Ending of the encoded recording."""
        return os.path.splitext(self.name)[1].removeprefix(".")

    @property
    def first_sample(self) -> int:
        """First sample at 16 kHz of the recording in what its place holds."""
        return 0

    @abstractmethod
    def place(self) -> Place | None:
        """Place of its bytes; None in an archive that is compressed as a whole.

        Raises:
            DamagedMember: it does not begin where the archive says.
        """


@dataclass(frozen=True, slots=True)
class FileMember(Member):
    """A file in a folder.

    Attributes:
        path: its path.
    """

    path: Path

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DamagedMember(f"cannot be read: {error.strerror}") from error

    def place(self) -> Place:
        return Place(str(self.path))


@dataclass(frozen=True, slots=True)
class _CompressedTarMember(Member):
    data: bytes

    def read(self) -> bytes:
        return self.data

    def place(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _TarMember(Member):
    archive_files: tuple[Path, ...]
    offset: int

    def read(self) -> bytes:
        with _open(self.archive_files) as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) != self.size:
            raise DamagedMember("the archive ends before it does")
        return data

    def place(self) -> Place:
        return _place(self.archive_files, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class _ZipMember(Member):
    archive_files: tuple[Path, ...]
    offset: int
    packed_size: int
    is_deflated: bool
    crc: int

    def read(self) -> bytes:
        with _open(self.archive_files) as stream:
            stream.seek(self._data_offset(stream))
            data = stream.read(self.packed_size)
        if self.is_deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error as error:
                raise DamagedMember(str(error)) from error
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise DamagedMember("its size or checksum differs from what the archive says")
        return data

    def place(self) -> Place:
        with _open(self.archive_files) as stream:
            offset = self._data_offset(stream)
        return _place(self.archive_files, offset, self.packed_size, self.is_deflated)

    def _data_offset(self, stream: io.BufferedReader) -> int:
        stream.seek(self.offset)
        header = stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise DamagedMember("no header where it should begin")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        return int(self.offset + _LOCAL_HEADER.size + name_length + extra_length)


def _place(archive_files: Sequence[Path], offset: int, num_bytes: int, is_deflated: bool = False) -> Place:
    """Place of bytes in an archive's files, from their offset in all of them together."""
    for path in archive_files:
        size = path.stat().st_size
        if offset < size:
            return Place(str(path), offset, num_bytes, is_deflated)
        offset -= size
    raise DamagedMember("the archive ends before it does")


def read_members(archive_files: Sequence[Path]) -> Sequence[Member] | Iterator[Member]:
    """The files in a zip, tar or tar.gz archive, from front to back; folders are left out.

    Args:
        archive_files: the archive, or its parts in order.

    Returns:
        All members of a zip archive at once, unread. A tar archive has no directory: its members come one by
        one, as it is gone through.

    Raises:
        DataError: the files do not make up a whole archive.
    """
    with _open(archive_files) as stream:
        start = stream.read(2)
        is_zip = start == b"PK" or (start != _GZIP and zipfile.is_zipfile(stream))  # its front may be missing
    return _zip_members(tuple(archive_files)) if is_zip else _tar_members(archive_files)


def plain_name(name: str) -> str:
    """The one form of a member's path: composed characters, slashes, no `./` in front, `.wav` for `.WAV`."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{ending.lower()}" if stem and ending.lower() in AUDIO_ENDINGS else name


def contents_digest(archive_files: Sequence[Path]) -> str:
    """A digest of an archive's own checksums, for which none of its members is read.

    Args:
        archive_files: the archive, or its parts in order.

    Returns:
        Hexadecimal digits; empty for an archive without checksums (a tar that is not compressed) and for one
        that is not whole.
    """
    with _open(archive_files) as stream:
        if stream.read(2) == _GZIP:
            stream.seek(-_GZIP_TRAILER, io.SEEK_END)
            return stream.read().hex()
    try:
        members = read_members(archive_files)
    except DataError:
        return ""
    if not isinstance(members, Sequence):
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for member in members:
        if isinstance(member, _ZipMember):
            digest.update(f"{member.name} {member.size} {member.crc}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def safe_parts(name: str) -> tuple[str, ...] | None:
    """Take the path of an archive member apart.

    Returns:
        Its folders and its file name, or None when it is absolute, holds an empty or very long part, `.` or
        `..`, or other characters than letters and digits of any script, `_`, `-` and `.`.
    """
    parts = tuple(name.split("/"))
    return parts if all(_ASCII_PART.fullmatch(part) or _is_word(part) for part in parts) else None


def is_recording(name: str) -> bool:
    """Whether an archive member is a recording by its ending, not added by an operating system."""
    *folders, file = name.split("/")
    is_hidden = any(part.startswith(".") and part.strip(".") for part in (*folders, file))
    stem, _, ending = file.rpartition(".")
    return bool(stem) and ending in AUDIO_ENDINGS and not is_hidden and _MAC_EXTRAS not in folders


def _is_word(part: str) -> bool:
    letters_marks_numbers = "LMN"
    return (
        part[:1] not in ("", ".")
        and len(part.encode()) <= _LONGEST_PART
        and all(
            character in "_-." or unicodedata.category(character)[0] in letters_marks_numbers
            for character in part
        )
    )


def _open(archive_files: Sequence[Path]) -> io.BufferedReader:
    return io.BufferedReader(JoinedFiles(archive_files), buffer_size=1 << 16)


def _zip_members(archive_files: tuple[Path, ...]) -> list[Member]:
    try:
        with _open(archive_files) as stream, zipfile.ZipFile(stream) as archive:
            found = sorted(archive.infolist(), key=lambda member: member.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise _not_whole("zip", archive_files, error) from error
    members = [(plain_name(_zip_name(member)), member) for member in found]
    return [
        _ZipMember(
            name,
            member.file_size,
            _why_zip_refused(member) or _why_too_large(max(member.file_size, member.compress_size)),
            archive_files,
            member.header_offset,
            member.compress_size,
            member.compress_type == zipfile.ZIP_DEFLATED,
            member.CRC,
        )
        for name, member in members
        if not (name.endswith("/") or member.external_attr & _DOS_FOLDER)
    ]


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Name of a member, also where UTF-8 is not flagged as such, as by macOS, and reads as code page 437."""
    if member.flag_bits & _UTF_8 or member.filename.isascii():
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _why_zip_refused(member: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.header_offset < 0:
        return "its place is before the first part: bytes are missing in front"
    if member.flag_bits & _ENCRYPTED:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed by method {member.compress_type}, neither stored nor deflated"
    return ""


def _tar_members(archive_files: Sequence[Path]) -> Iterator[Member]:
    try:
        with (
            _open(archive_files) as stream,
            tarfile.open(fileobj=stream, encoding="utf-8", errors="replace") as archive,
        ):
            for member in archive:
                if member.isdir():
                    continue
                name, size = plain_name(member.name), member.size
                refused = _why_tar_refused(member) or _why_too_large(size)
                if archive.fileobj is stream:
                    yield _TarMember(name, size, refused, tuple(archive_files), member.offset_data)
                    continue
                file = None if refused else archive.extractfile(member)
                yield _CompressedTarMember(name, size, refused, file.read() if file else b"")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _not_whole("zip or tar", archive_files, error) from error


def _why_tar_refused(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    return "" if member.isreg() and not member.issparse() else "not a regular file"


def _why_too_large(size: int) -> str:
    return f"declares {size} bytes, more than any recording has" if size > MAX_BYTES else ""


def _not_whole(kind: str, archive_files: Sequence[Path], error: Exception) -> DataError:
    names = ", ".join(str(path) for path in archive_files)
    reason = str(error).partition("\n")[0].rstrip(":")
    return DataError(f"{names}: not a whole {kind} archive ({reason}); copy it again, with all parts")
