"""Atomic writes of files and folders."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speaker_verification.common.errors import UserError

FULL_BYTES = 1 << 20  # a disk with less than this free counts as full


@contextmanager
def atomic_write(path: Path, skip_if_unchanged: bool = False) -> Iterator[Path]:
    """Write a file or folder to a hidden sibling that is renamed to `path` when the block ends.

    An existing `path` is replaced; parent folders are made. A block that raises leaves nothing behind; a
    killed process leaves the sibling, which the next writer of the same path removes.

    Args:
        path: file or folder to write or replace, by one process at a time.
        skip_if_unchanged: keep an existing file of identical bytes, with its modification time.

    Yields:
        Path of the sibling, where nothing exists yet.
    """
    beside = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(beside)
    try:
        with _path_in_errors(path):
            yield beside
        if path.is_dir():  # rename cannot replace a folder: move the old one away first
            old = path.with_name(f".{path.name}.old.part")
            remove(old)
            path.rename(old)
            beside.rename(path)
            remove(old)
        elif not (skip_if_unchanged and path.is_file() and filecmp.cmp(beside, path, shallow=False)):
            os.replace(beside, path)
    finally:
        remove(beside)


@contextmanager
def _path_in_errors(path: Path) -> Iterator[None]:
    """Add the path to write errors, and name a full disk where a library hides it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
            raise
        reason = os.strerror(errno.ENOSPC)
        if reason not in str(error) and shutil.disk_usage(path.parent).free >= FULL_BYTES:
            raise
        raise OSError(errno.ENOSPC, reason, str(path)) from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
