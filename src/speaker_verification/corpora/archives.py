"""Archives read where they lie: in parts, without joining or unpacking them on disk."""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO

from speaker_verification.errors import DataError

# what zipfile raises for a member that is cut, altered, encrypted or packed in an unknown way
DAMAGED_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class JoinedFiles(io.RawIOBase):
    """Several files read as one seekable stream, in the order given."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = [self._stack.enter_context(path.open("rb")) for path in paths]
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


@contextmanager
def open_zip(paths: Sequence[Path]) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive that lies in one file or in several parts.

    Raises:
        DataError: the parts do not make up a zip archive.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(io.BufferedReader(JoinedFiles(paths), buffer_size=1 << 20))
        try:
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except zipfile.BadZipFile as error:
            names = ", ".join(str(path) for path in paths)
            raise DataError(
                f"{names}: not a whole zip archive ({error}); copy it anew, with all parts"
            ) from error
        yield archive


def is_link(member: zipfile.ZipInfo) -> bool:
    """Whether a zip member is a symbolic link."""
    return stat.S_ISLNK(member.external_attr >> 16)


def safe_parts(name: str) -> tuple[str, ...] | None:
    """Take the path of an archive member apart.

    Returns:
        Its folders and its file name, or None when it is absolute, holds an empty part, `.` or `..`, or
        characters that VoxCeleb, MUSAN and RIRS_NOISES never use.
    """
    parts = tuple(name.split("/"))
    return parts if all(_PART.fullmatch(part) for part in parts) else None
