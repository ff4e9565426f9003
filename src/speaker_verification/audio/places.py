"""Places of encoded recordings: files of their own, and bytes in archives."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from speaker_verification.common.errors import DataError

_REMEDY = "put back what was there, or run: kedro run --pipeline=prepare"
MAX_BYTES = 256 << 20  # of a recording when unpacked: more than two hours of 16 kHz 16-bit audio


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of an encoded recording.

    Attributes:
        path: its file, or the archive that holds it; of an archive in parts, the part of its first byte.
        offset: first byte in the file.
        num_bytes: bytes in the archive, which may run on into the next parts; 0: the whole file.
        deflated: a zip member that is to be inflated.
        crc32: CRC-32 of the recording, inflated; 0: it is not compared.
    """

    path: str
    offset: int = 0
    num_bytes: int = 0
    deflated: bool = False
    crc32: int = 0

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset}" if self.num_bytes else self.path

    def read(self) -> bytes:
        """The encoded recording.

        Raises:
            DataError: the file is missing, cannot be read or ends too early, the recording cannot be inflated
                or is another one.
        """
        try:
            data = self._stored()
        except OSError as error:
            raise DataError(f"{self}: cannot be read: {error.strerror}; {_REMEDY}") from error
        if self.deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_BYTES)
            except zlib.error as error:
                raise DataError(f"{self}: no deflated member of a zip archive: {error}; {_REMEDY}") from error
        if self.crc32 and zlib.crc32(data) != self.crc32:
            raise DataError(f"{self}: not the recording that was prepared, whose CRC-32 differs; {_REMEDY}")
        return data

    def _stored(self) -> bytes:
        path = Path(self.path)
        if not self.num_bytes:
            return path.read_bytes()
        parts: list[bytes] = []
        missing, offset = self.num_bytes, self.offset
        while missing:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                parts.append(file.read(missing))
            missing -= len(parts[-1])
            if missing and not (following := next_part(path)).is_file():
                raise DataError(f"{self}: the file ends {missing} bytes before the recording does; {_REMEDY}")
            path, offset = following if missing else path, 0
        return b"".join(parts)


def next_part(path: Path) -> Path:
    """The part of an archive that follows, as `split` names it: NAMEab after NAMEaa."""
    stem, first, last = path.name[:-2], *path.name[-2:]
    suffix = first + chr(ord(last) + 1) if last != "z" else chr(ord(first) + 1) + "a"
    return path.with_name(stem + suffix)
