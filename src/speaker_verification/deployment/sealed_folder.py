"""Folders with a manifest: the SHA-256 of every file, so that nothing altered, missing or added is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from speaker_verification.common.checksums import sha256_of
from speaker_verification.common.errors import DataError, listed


def file_sums(folder: Path, besides: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of every file of a folder by its relative path, in the order of the paths.

    Hidden files and folders are passed over: a download or a clone leaves some.

    Args:
        folder: folder, with its subfolders.
        besides: relative paths of files that are left out.
    """
    left_out = set(besides)
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {
        name.as_posix(): sha256_of(folder / name)
        for name in names
        if name.as_posix() not in left_out and not any(part.startswith(".") for part in name.parts)
    }


def check_sums(folder: Path, sums: Mapping[str, str], manifest: str) -> None:
    """Refuse a folder whose files are not exactly those of its manifest.

    Args:
        folder: folder to check.
        sums: SHA-256 by relative path, as `file_sums` gave them.
        manifest: relative path of the file that holds them, which is not among them.

    Raises:
        DataError: files are altered, missing or surplus; they are named.
    """
    there = file_sums(folder, [manifest])
    faults = {
        "missing": sorted(sums.keys() - there.keys()),
        "surplus": sorted(there.keys() - sums.keys()),
        "altered": sorted(name for name in sums.keys() & there.keys() if sums[name] != there[name]),
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {listed(names)}" for fault, names in faults.items() if names)
        raise DataError(f"'{folder}' is not as it was saved: {told}; copy it anew, whole")


def sum_of_sums(sums: Mapping[str, str]) -> str:
    """SHA-256 over names and sums of files, as `sha256sum` prints them in the order of the names."""
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return hashlib.sha256(lines.encode()).hexdigest()
