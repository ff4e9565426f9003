"""What all archives of audio share on their way to disk: what is kept, what is refused and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speaker_verification.errors import DataError
from speaker_verification.tables import REJECTED_FILES
from speaker_verification.whole import written_whole


class Freshness:
    """Tells which files in a folder were already written from this archive, by an earlier run.

    A marker in the folder names the archive's files with their sizes and times. What is older than the
    marker came from another archive and does not count.
    """

    def __init__(self, folder: Path, sources: Sequence[Path]) -> None:
        marker = folder / ".source"
        stats = [(path.name, path.stat()) for path in sources]
        source = "".join(f"{name} {found.st_size} {found.st_mtime_ns}\n" for name, found in stats)
        if not marker.is_file() or marker.read_text(encoding="utf-8") != source:
            with written_whole(marker) as part:
                part.write_text(source, encoding="utf-8")
        self._since = marker.stat().st_mtime_ns

    def holds(self, path: Path) -> bool:
        """Whether the file is there, from this archive."""
        return path.is_file() and path.stat().st_mtime_ns >= self._since


def rejected_table(reasons: Sequence[tuple[str, str]], subset: str) -> pd.DataFrame:
    """The table of refused files.

    Args:
        reasons: id and reason of each file.
        subset: the subset or archive that they came from.
    """
    rows = pd.DataFrame(reasons, columns=["file_id", "reason"]).assign(subset=subset)
    return REJECTED_FILES.conform(rows)


def refuse_too_many_rejected(rejected: pd.DataFrame, num_files: int, max_fraction: float) -> None:
    """Stop when a subset holds more unusable files than a set fraction.

    Args:
        rejected: the refused files of one subset.
        num_files: how many files the subset has, refused ones included.
        max_fraction: fraction of them, 0 to 1, that may be refused.

    Raises:
        DataError: with the count and the first ten files.
    """
    if len(rejected) > max_fraction * num_files:
        first = ", ".join(f"{row.file_id} ({row.reason})" for row in rejected.head(10).itertuples())
        raise DataError(
            f"{rejected['subset'].iloc[0]}: {len(rejected)} of {num_files} files cannot be used, more than "
            f"prepare.max_rejected_fraction ({max_fraction:g}) allows; the first are {first}"
        )
