"""Files and folders that appear under their name whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speaker_verification.common.errors import UserError

FULL_BYTES = 1 << 20  # free bytes of a disk on which nothing can be written any more


@contextmanager
def atomic_write(path: Path, skip_if_unchanged: bool = False) -> Iterator[Path]:
    """Hand out a hidden sibling to write a file or folder to, and give it the name of `path` at the end.

    What stands at `path` is replaced; folders above it are made. A block that raises leaves nothing behind; a
    process that is killed leaves the sibling, which the next writer of the same path removes.

    Args:
        path: the file or folder to write or replace, by one process at a time.
        skip_if_unchanged: leave a file that has these very bytes already as it is, with its time.

    Yields:
        The sibling, a path at which nothing stands.
    """
    beside = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(beside)
    try:
        with _path_in_errors(path):
            yield beside
        if path.is_dir():  # a folder cannot be renamed over: the old one steps aside first
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
    """Name the path in errors of writing to it, and a full disk where a library does not."""
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
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
