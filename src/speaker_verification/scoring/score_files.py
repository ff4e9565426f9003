"""Scores as the field's text format, `ENROLL_ID TEST_ID SCORE [target|nontarget]` on each line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.errors import DataError
from speaker_verification.whole import written_whole

COLUMNS = ("enroll_id", "test_id", "score", "label")
LABELS = {"target": 1, "nontarget": 0}


def write_score_file(path: Path, scores: pd.DataFrame) -> None:
    """Write one line for each trial; a score that is read again is the same to the last digit.

    Args:
        path: of the file, which appears whole.
        scores: columns enroll_id, test_id, score and, if the file is to have labels, label (1 target,
            0 non-target).
    """
    import pyarrow as pa
    from pyarrow import csv

    columns = {side: pa.array(scores[side], pa.large_string()) for side in ("enroll_id", "test_id")}
    columns["score"] = pa.array(scores["score"], pa.float64())
    if "label" in scores:
        words = np.array(sorted(LABELS, key=LABELS.__getitem__))
        columns["label"] = pa.array(words[scores["label"]])
    plain = csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    with written_whole(Path(path)) as part:
        csv.write_csv(pa.table(columns), part, plain)


def read_score_file(path: Path) -> pd.DataFrame:
    """Read a file of scores; fields stand between blanks or tabs, and blank lines are passed over.

    Args:
        path: of the file; all lines have a label, or none has.

    Returns:
        Columns enroll_id, test_id, score (float64) and, where the file has labels, label (1 target,
        0 non-target).

    Raises:
        DataError: the file is missing or holds no trials, or a line is of another form (its number is named).
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file of scores")
    try:
        table = pd.read_csv(
            path, sep=r"\s+", names=list(COLUMNS), dtype=str, header=None, quoting=3, na_filter=False
        )
        scores = pd.to_numeric(table["score"], errors="coerce")
        labels = table["label"].map(LABELS | {"": -1})
    except (ValueError, UnicodeDecodeError):  # a line of more fields than there are
        raise _malformed(path) from None
    if not np.isfinite(scores).all() or labels.isna().any() or labels.eq(-1).nunique() > 1:
        raise _malformed(path)
    if table.empty:
        raise DataError(f"{path}: holds no trials")
    table = table.assign(score=scores.astype(np.float64), label=labels.astype(np.int8))
    return table.drop(columns="label") if labels.iloc[0] == -1 else table


def _malformed(path: Path) -> DataError:
    """The error that names the first line that cannot be read."""
    num_fields = 0
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            num_fields = num_fields or len(fields)
            if fields and (len(fields) != num_fields or not _is_trial(fields)):
                return DataError(
                    f"{path}, line {number}: {line.strip()[:200]!r} is not 'ENROLL_ID TEST_ID SCORE "
                    f"{'target|nontarget' if num_fields == len(COLUMNS) else '[target|nontarget]'}'"
                )
    return DataError(f"{path}: is not text of scores")


def _is_trial(fields: list[str]) -> bool:
    try:
        is_finite = bool(np.isfinite(float(fields[2])))
    except (IndexError, ValueError):
        return False
    return is_finite and all(label in LABELS for label in fields[3:])
