"""Score files and speaker files in the field's text formats.

Scores are `ENROLL_ID TEST_ID SCORE [target|nontarget]` on each line, speakers `UTTERANCE_ID SPEAKER_ID`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError

COLUMNS = ("enroll_id", "test_id", "score", "label")
LABELS = {"target": 1, "nontarget": 0}
SPEAKER_COLUMNS = ["utterance_id", "speaker_id"]


def write_score_file(path: Path, scores: pd.DataFrame) -> None:
    """Write a score file, one trial a line, atomically; scores round-trip exactly.

    Args:
        path: file to write.
        scores: columns enroll_id, test_id, score and, if the file is to have labels, label (1 target,
            0 non-target).
    """
    columns = {side: pa.array(scores[side], pa.large_string()) for side in ("enroll_id", "test_id")}
    columns["score"] = pa.array(scores["score"], pa.float64())
    if "label" in scores:
        words = np.array(sorted(LABELS, key=LABELS.__getitem__))
        columns["label"] = pa.array(words[scores["label"]])
    plain = csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    with atomic_write(Path(path)) as part:
        csv.write_csv(pa.table(columns), part, plain)


def read_score_file(path: Path) -> pd.DataFrame:
    """Read a score file with fields separated by blanks or tabs; blank lines are skipped.

    Args:
        path: score file; either all lines have a label or none.

    Returns:
        Columns enroll_id, test_id, score (float64) and, where the file has labels, label (1 target,
        0 non-target).

    Raises:
        DataError: the file is missing or holds no trials, or a line is of another form (its number is named).
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such score file")
    try:
        return _read_columns(path)
    except ValueError:  # includes Arrow's errors
        return _read_lines(path)


def _read_columns(path: Path) -> pd.DataFrame:
    """Trials of a file with single blanks between fields, parsed by Arrow; others are a ValueError."""
    types = dict(
        zip(("f0", "f1", "f2", "f3"), (pa.string(), pa.string(), pa.float64(), pa.string()), strict=True)
    )
    table = csv.read_csv(
        path,
        csv.ReadOptions(autogenerate_column_names=True),
        csv.ParseOptions(delimiter=" ", quote_char=False),
        csv.ConvertOptions(column_types=types, null_values=[]),
    )
    if table.num_columns not in (3, 4):
        raise ValueError("fields are missing, or there are too many")
    trials = table.rename_columns(COLUMNS[: table.num_columns]).to_pandas()
    if (trials[["enroll_id", "test_id"]] == "").any(axis=None):
        raise ValueError("two blanks follow each other")
    return _as_trials(trials)


def _read_lines(path: Path) -> pd.DataFrame:
    """Trials of a file in any allowed format, parsed line by line."""
    trials: list[list[str]] = []
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if not fields:
                continue
            if not _is_trial(fields) or (trials and len(fields) != len(trials[0])):
                raise DataError(
                    f"{path}, line {number}: {line.strip()[:200]!r} is not 'ENROLL_ID TEST_ID SCORE "
                    "target|nontarget', the label on all lines or on none"
                )
            trials.append(fields)
    if not trials:
        raise DataError(f"{path}: holds no trials")
    return _as_trials(pd.DataFrame(trials, columns=list(COLUMNS[: len(trials[0])])))


def _is_trial(fields: list[str]) -> bool:
    if len(fields) not in (3, 4):
        return False
    try:
        return math.isfinite(float(fields[2])) and set(fields[3:]) <= set(LABELS)
    except ValueError:
        return False


def _as_trials(table: pd.DataFrame) -> pd.DataFrame:
    """The table with scores and labels as numbers.

    Raises:
        ValueError: a score is not finite, or a label is unknown.
    """
    table = table.assign(score=table["score"].astype(np.float64))
    if not np.isfinite(table["score"]).all():
        raise ValueError("a score is not finite")
    if "label" in table:  # an unknown one cannot become a number
        table = table.assign(label=table["label"].map(LABELS).astype(np.int8))
    return table


def read_speaker_file(path: Path, optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read the speakers of utterances.

    Args:
        path: text file with `UTTERANCE_ID SPEAKER_ID` on each line (Kaldi's utt2spk), or table of
            utterances as .parquet or .csv.
        optional: names of further columns that are read where a table has them.

    Returns:
        Columns utterance_id and speaker_id, and the further ones, of a CSV file as text.

    Raises:
        DataError: the file is missing, holds no speakers, a line is of another form, or an utterance
            is duplicated (the line is named).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such speaker file")
    is_table = path.suffix in (".parquet", ".csv")
    table = _read_speaker_table(path, optional) if is_table else _read_speaker_lines(path)
    if table.empty:
        raise DataError(f"{path}: holds no speakers")
    repeated = table["utterance_id"].duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        name = table["utterance_id"].iloc[row]
        raise DataError(f"{path}, {_place(path, table, row)}: duplicate utterance {name}")
    return table[[*SPEAKER_COLUMNS, *(name for name in optional if name in table)]]


def _read_speaker_table(path: Path, optional: Sequence[str]) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            there = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns
            columns = [*SPEAKER_COLUMNS, *there.intersection(list(optional))]
            table = pd.read_csv(path, usecols=columns, dtype=str, encoding="utf-8-sig")
        else:
            there = pd.Index(parquet.read_schema(path).names)
            table = pd.read_parquet(path, columns=[*SPEAKER_COLUMNS, *there.intersection(list(optional))])
    except (ValueError, OSError) as error:  # a column that is missing, or a file of another kind
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a table with {' and '.join(SPEAKER_COLUMNS)}: {reason}") from error
    empty = table[SPEAKER_COLUMNS].isna().any(axis=1).to_numpy()
    if empty.any():
        where = _place(path, table, int(empty.argmax()))
        raise DataError(f"{path}, {where}: no {' or no '.join(SPEAKER_COLUMNS)}")
    return table.astype(dict.fromkeys(SPEAKER_COLUMNS, str))


def _read_speaker_lines(path: Path) -> pd.DataFrame:
    rows: list[tuple[str, str, int]] = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if len(fields) not in (0, 2):
                raise DataError(
                    f"{path}, line {number}: {line.strip()[:200]!r} is not 'UTTERANCE_ID SPEAKER_ID'"
                )
            if fields:
                rows.append((fields[0], fields[1], number))
    return pd.DataFrame(rows, columns=[*SPEAKER_COLUMNS, "line"])


def _place(path: Path, table: pd.DataFrame, row: int) -> str:
    """Row of a speaker file as its line number in a text file or its row number in a table."""
    if "line" in table:
        return f"line {table['line'].iloc[row]}"
    return f"line {row + 2}" if path.suffix == ".csv" else f"row {row}"


def refuse_unknown_speakers(path: Path, trials: pd.DataFrame, speakers: pd.DataFrame, where: Path) -> None:
    """Refuse a score file with utterances of unknown speakers.

    Args:
        path: score file.
        trials: its trials, from `read_score_file`.
        speakers: table with the column utterance_id.
        where: speaker file, for the message.

    Raises:
        DataError: naming the first such line, its utterance and the number of such utterances.
    """
    sides = [pd.Index(trials[side].unique()) for side in COLUMNS[:2]]
    absent = set(sides[0].union(sides[1]).difference(speakers["utterance_id"]))
    if not absent:
        return
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
        lines = enumerate((line.split()[:2] for line in file), start=1)
        number, name = next((number, name) for number, names in lines for name in names if name in absent)
    raise DataError(
        f"{path}, line {number}: no speaker of {name} in {where}, which lacks {len(absent):,} utterances"
    )
