"""A mirror: a folder that holds VoxCeleb, LibriSpeech, MUSAN and RIRS_NOISES under their own file names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speaker_verification.errors import DataError

ARCHIVES = {
    "vox1-dev": "vox1_dev_wav.zip",
    "vox1-test": "vox1_test_wav.zip",
    "vox2-dev": "vox2_dev_aac.zip",
    "vox2-test": "vox2_test_aac.zip",
    "librispeech-train-clean-100": "train-clean-100.tar.gz",
    "librispeech-dev-clean": "dev-clean.tar.gz",
    "librispeech-test-clean": "test-clean.tar.gz",
}
IN_PARTS = {"vox1_dev_wav.zip": "vox1_dev_wav_part", "vox2_dev_aac.zip": "vox2_dev_aac_part"}
MUSAN_ARCHIVE = "musan.tar.gz"
ROOM_RESPONSE_ARCHIVE = "rirs_noises.zip"
CHECKSUMS = "MD5SUMS"


def part_suffix(index: int) -> str:
    """The suffix that `split` gives to a part: aa, ab, ..., az, ba, ..."""
    return chr(ord("a") + index // 26) + chr(ord("a") + index % 26)


@dataclass(frozen=True)
class Mirror:
    """Finds the files of a mirror and proves them whole."""

    folder: Path

    def files(self, name: str) -> list[Path]:
        """The files that make up an archive or a list, in order: itself, or else its parts."""
        whole = self.folder / name
        if whole.exists() or name not in IN_PARTS:
            return [whole]
        return sorted(self.folder.glob(f"{IN_PARTS[name]}[a-z][a-z]")) or [whole]

    def check(self, names: Iterable[str], verify_checksums: bool) -> None:
        """Make sure that everything needed is there, and that it is what the checksums say.

        Args:
            names: whole archives (`vox2_dev_aac.zip`) and lists that are needed.
            verify_checksums: read everything once and compare with `MD5SUMS`, where that file stands
                beside and names it.

        Raises:
            DataError: the folder is missing, or any file is (all of them are named), or a checksum differs.
        """
        names = list(names)
        if not self.folder.is_dir():
            raise DataError(f"mirror {self.folder}: no such folder; set the parameter prepare.mirror")
        checksums = self._checksums()
        missing = [path for name in names for path in self._missing(name, checksums)]
        if missing:
            raise DataError(f"mirror {self.folder} lacks {', '.join(missing)}")
        if verify_checksums:
            self._verify(names, checksums)

    def _missing(self, name: str, checksums: dict[str, str]) -> list[str]:
        if (self.folder / name).is_file():
            return []
        if name not in IN_PARTS:
            return [name]
        present = [path.name for path in self.files(name) if path.is_file()]
        if not present:
            return [f"{name} (or {IN_PARTS[name]}aa, ...)"]
        listed = [part for part in checksums if part.startswith(IN_PARTS[name])]
        up_to_last = [IN_PARTS[name] + part_suffix(index) for index in range(len(present))]
        return sorted({*listed, *up_to_last} - {*present})

    def _checksums(self) -> dict[str, str]:
        path = self.folder / CHECKSUMS
        if not path.is_file():
            return {}
        checksums = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            fields = line.split(maxsplit=1)
            if len(fields) != 2 or len(fields[0]) != 32:
                raise DataError(f"{path}, line {number}: not a checksum and a file name: {line!r}")
            checksums[fields[1].lstrip("*")] = fields[0].lower()
        return checksums

    def _verify(self, names: Sequence[str], checksums: dict[str, str]) -> None:
        from rich.progress import track

        checks = []
        for name in names:
            files = self.files(name)
            if any(path.name in checksums for path in files):
                checks += [(path.name, [path]) for path in files if path.name in checksums]
            elif name in checksums:
                checks.append((name, files))
        for name, files in track(checks, description="verify checksums"):
            found = _md5(files)
            if found != checksums[name]:
                raise DataError(
                    f"{self.folder / name}: MD5 is {found}, {CHECKSUMS} says {checksums[name]}; copy it anew"
                )


def _md5(paths: Sequence[Path]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
