"""Manifests of labelled recordings: tables, Kaldi's data folders, and folders of recordings."""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.audio.files import AudioError, audio_info
from speaker_verification.common.errors import DataError, listed
from speaker_verification.common.settings_base import SURE
from speaker_verification.corpora.conversion.archives import AUDIO_ENDINGS, is_recording, plain_name
from speaker_verification.corpora.texts import decode_text

REQUIRED = ("file", "speaker")
KNOWN = (*REQUIRED, "utterance", "session", "start", "end", "gender")
PATTERN_FIELDS = ("speaker", "session", "utterance", "gender")
TIMES = ("start", "end")
GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m"}
TOLERANCE_SECONDS = 0.02  # by which times that were rounded may end after the recording
_TABLES = "a table (.csv, .tsv, .parquet, .jsonl), a folder of recordings, or one with wav.scp and utt2spk"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Labelled recordings, or segments of recordings, and where each of them was read.

    Attributes:
        source: the file or the folder that lists them.
        recordings: a row for each, with the columns KNOWN and `path`: texts, empty where they are not given,
            and times in seconds, `start` 0 and `end` missing where they are not; `file` is as it was named,
            `path` absolute.
        unit: what a row was in its file ("line", "row"); empty of a folder.
        numbers: number of each row in its file, from 1; of Kaldi's folders the line in utt2spk.
    """

    source: Path
    recordings: pd.DataFrame
    unit: str = ""
    numbers: Sequence[int] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.recordings)

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        if not self.unit:
            return f"{self.source}/{self.recordings['file'].iloc[row]}"
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def lines(self, rows: Iterable[int]) -> str:
        """The lines of some rows, for messages."""
        if not self.unit:
            return listed([self.recordings["file"].iloc[row] for row in rows])
        return f"{self.unit}s {listed([self.numbers[row] for row in rows])}"


def read_manifest(source: str | Path, pattern: str | None = None) -> Manifest:
    """Read the recordings that a table, a Kaldi folder or a folder of recordings lists, and check the list.

    A table is CSV, TSV, Parquet or JSON lines with the columns `file` and `speaker`, and maybe `utterance`,
    `session`, `start`, `end` (in seconds) and `gender`; others are passed over. A Kaldi folder holds wav.scp
    and utt2spk, and maybe segments and spk2gender. Relative files are below the folder of the manifest.

    Args:
        source: the table or the folder.
        pattern: paths below a folder of recordings, with speaker, session, utterance or gender in braces
            (`{speaker}/{session}/{utterance}.*`); None: by its depth.

    Raises:
        DataError: it cannot be read, or a recording is missing, is listed twice or with two speakers, or has
            times outside of it; file and line are named.
    """
    path = Path(source).expanduser().absolute()
    if path.name == "wav.scp":
        path = path.parent
    reader: Callable[[Path], Manifest]
    if path.is_dir():
        if (path / "wav.scp").is_file() and pattern is None:
            reader = _read_kaldi
        else:
            return _checked(_read_folder(path, pattern), path)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder of recordings")
    elif pattern is not None:
        raise DataError(f"{path}: a pattern reads the paths in a folder, and this is a file: leave it out")
    else:
        readers = {
            ".csv": _read_csv,
            ".tsv": _read_csv,
            ".parquet": _read_parquet,
            ".jsonl": _read_json_lines,
            ".ndjson": _read_json_lines,
        }
        if path.suffix.lower() not in readers:
            raise DataError(f"{path}: no manifest by its ending: give {_TABLES}")
        reader = readers[path.suffix.lower()]
    return _checked(reader(path), path if path.is_dir() else path.parent)


def check_table(table: pd.DataFrame, source: str, folder: Path) -> Manifest:
    """The recordings of a table in memory, checked as those of a file.

    Args:
        table: columns as of `read_manifest`.
        source: name of the table, for messages.
        folder: folder that relative files are below.

    Raises:
        DataError: as `read_manifest`.
    """
    records = table.astype(object).where(table.notna(), "").to_numpy().tolist()
    return _checked(_manifest(Path(source), list(table.columns), records, "row"), folder)


def _read_csv(path: Path) -> Manifest:
    text = _text_of(path)
    header = text.partition("\n")[0]
    delimiter = (
        "\t" if path.suffix.lower() == ".tsv" else ";" if header.count(";") > header.count(",") else ","
    )
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        for values in lines:
            if not any(value.strip() for value in values):
                continue
            if not columns:
                columns = [value.strip() for value in values]
                continue
            if len(values) != len(columns):
                raise DataError(
                    f"{path}, line {lines.line_num}: {len(values)} values for {len(columns)} columns "
                    f"({', '.join(columns)}): put a value that holds {delimiter!r} in quotes"
                )
            rows.append(values)
            numbers.append(lines.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: broken: {error}") from error
    return _manifest(path, columns, rows, "line", numbers)


def _read_json_lines(path: Path) -> Manifest:
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: broken: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: not {{...}}, a JSON object of column names and values")
        records.append(record)
        numbers.append(number)
    columns = list(dict.fromkeys(name for record in records for name in record))
    rows = [["" if record.get(name) is None else record[name] for name in columns] for record in records]
    return _manifest(path, columns, rows, "line", numbers)


def _read_parquet(path: Path) -> Manifest:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no Parquet table: {error}") from error
    rows = table.astype(object).where(table.notna(), "").to_numpy().tolist()
    return _manifest(path, list(table.columns), rows, "row")


def _read_kaldi(folder: Path) -> Manifest:
    files = {}
    for number, key, file in _kaldi_lines(folder / "wav.scp"):
        if file.endswith("|"):
            raise DataError(
                f"{folder / 'wav.scp'}, line {number}: {key} is the output of a command ({file}), which is "
                "never run: write it to a file, and name that"
            )
        if re.search(r"\.ark:\d+$", file):
            raise DataError(
                f"{folder / 'wav.scp'}, line {number}: {key} is inside of an archive ({file}): write it to a "
                "file, and name that"
            )
        files[key] = file
    genders = {}
    if (folder / "spk2gender").is_file():
        genders = {key: value for _, key, value in _kaldi_lines(folder / "spk2gender")}
    segments = None
    if (folder / "segments").is_file():
        segments = {key: (number, value) for number, key, value in _kaldi_lines(folder / "segments")}
    rows, numbers = [], []
    utt2spk = folder / "utt2spk"
    for number, key, speaker in _kaldi_lines(utt2spk):
        recording, start, end = key, "", ""
        if segments is not None:
            line, value = segments.get(key, (0, ""))
            parts = value.split()
            if len(parts) != 3:
                where = f"{folder / 'segments'}, line {line}" if line else f"{utt2spk}, line {number}"
                raise DataError(f"{where}: {key} needs a line 'UTTERANCE RECORDING START END' in segments")
            recording, start, end = parts
            end = "" if end.startswith("-1") else end  # the end of the recording
        if recording not in files:
            raise DataError(f"{utt2spk}, line {number}: {key}: wav.scp has no recording {recording}")
        rows.append([files[recording], speaker, key, start, end, genders.get(speaker, "")])
        numbers.append(number)
    unlisted = sorted((set(files) if segments is None else set(segments)) - {row[2] for row in rows})
    if unlisted:
        raise DataError(f"{utt2spk}: names no speaker of {listed(unlisted)}: add them, or take them out")
    return _manifest(utt2spk, ["file", "speaker", "utterance", *TIMES, "gender"], rows, "line", numbers)


def _kaldi_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, key and value of each line `KEY VALUE` of a file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file: a Kaldi folder needs it beside wav.scp")
    seen = set()
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if not value.strip():
            raise DataError(f"{path}, line {number}: {line.strip()!r} is not 'KEY VALUE'")
        if key in seen:
            raise DataError(f"{path}, line {number}: {key} is on an earlier line too: take one of them out")
        seen.add(key)
        yield number, key, value.strip()


def _read_folder(folder: Path, pattern: str | None) -> Manifest:
    files = sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
    names = {file: plain for file in files if is_recording(plain := plain_name(file))}
    if not names:
        kinds = ", ".join(sorted(AUDIO_ENDINGS))
        raise DataError(f"{folder}: holds no recordings: put them there as SPEAKER/FILE ({kinds})")
    if pattern is None:
        pattern = _guessed_pattern(folder, list(names))
        logger.info("%s: %d recordings, read as %s", folder, len(names), pattern)
    expression = _expression(folder, pattern)
    rows = []
    for file, plain in names.items():
        found = expression.fullmatch(plain)
        if found is None:
            raise DataError(f"{folder / file} is not {pattern}: take it out of {folder}, or set the pattern")
        rows.append([file, *(found.groupdict().get(name, "") for name in PATTERN_FIELDS)])
    return _manifest(folder, ["file", *PATTERN_FIELDS], rows, "")


def _guessed_pattern(folder: Path, files: Sequence[str]) -> str:
    depths = {file: file.count("/") for file in files}
    shallowest = min(depths, key=lambda file: depths[file])
    if not depths[shallowest]:
        raise DataError(
            f"{folder / shallowest} is in no folder of a speaker: put it into SPEAKER/ or "
            "SPEAKER/SESSION/, or give the pattern of the paths, such as {speaker}_{utterance}.*"
        )
    folders = "{speaker}/" if depths[shallowest] == 1 else "{speaker}/{session}/"
    deeper = "**/" if max(depths.values()) > folders.count("/") else ""
    return f"{folders}{deeper}{{utterance}}.*"


def _expression(folder: Path, pattern: str) -> re.Pattern[str]:
    """Regular expression of a pattern: fields in braces, `*` within a folder, `**/` any folders or none."""
    parts: list[str] = []
    stem, any_ending = (pattern[:-2], r"\.[^./]+") if pattern.endswith(".*") else (pattern, "")
    for token in re.split(r"(\{[^}]*\}|\*\*/?|\*)", stem):
        if token.startswith("{"):
            name = token[1:-1]
            if name not in PATTERN_FIELDS:
                raise DataError(
                    f"{folder}: the pattern '{pattern}' holds {token}: known are "
                    f"{', '.join(f'{{{known}}}' for known in PATTERN_FIELDS)}"
                )
            parts.append(f"(?P={name})" if f"(?P<{name}>" in "".join(parts) else f"(?P<{name}>[^/]+?)")
        elif token.startswith("**"):
            parts.append("(?:.*/)?")
        else:
            parts.append("[^/]*" if token == "*" else re.escape(unicodedata.normalize("NFC", token)))
    if "(?P<speaker>" not in "".join(parts):
        raise DataError(f"{folder}: the pattern '{pattern}' says nothing of {{speaker}}: put it where it is")
    return re.compile("".join(parts) + any_ending)


def _text_of(path: Path) -> str:
    text = decode_text(path.read_bytes()).replace("\r\n", "\n")
    if "\ufffd" in text:
        number = text[: text.index("\ufffd")].count("\n") + 1
        raise DataError(f"{path}, line {number}: not in UTF-8: save the file in UTF-8")
    return text


def _manifest(
    source: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    unit: str,
    numbers: Sequence[int] = (),
) -> Manifest:
    """Rows of a file with the known columns alone, as texts; `path` is not there yet."""
    _check_columns(source, columns)
    if not rows:
        raise DataError(f"{source}: lists no recordings")
    given = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    table = pd.DataFrame(index=given.index)
    for name in KNOWN:
        values = given[name] if name in given else pd.Series("", index=given.index)
        table[name] = [unicodedata.normalize("NFC", str(value)).strip() for value in values]
    table["file"] = [str(value).strip() for value in given["file"]]  # no other form of it may be there
    return Manifest(source, table, unit, numbers or range(1, len(table) + 1))


def _check_columns(source: Path, columns: Sequence[str]) -> None:
    others = [str(name) for name in columns if name not in KNOWN]
    absent = [name for name in KNOWN if name not in columns]
    for name in others:
        if nearest := difflib.get_close_matches(name.lower(), absent, n=1, cutoff=SURE):
            raise DataError(f"{source}: unknown column '{name}': did you mean '{nearest[0]}'?")
    for name in REQUIRED:
        if name not in columns:
            raise DataError(f"{source}: no column '{name}' among {listed(list(columns)) or 'none'}: add it")
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if list(columns).count(name) > 1)
        raise DataError(f"{source}: two columns '{twice}': take one of them out")
    if others:
        logger.info("%s: %d columns are passed over: %s", source, len(others), listed(others))


def _checked(manifest: Manifest, folder: Path) -> Manifest:
    table = manifest.recordings
    for name in REQUIRED:
        empty = (table[name] == "").to_numpy()
        if empty.any():
            raise DataError(f"{manifest.where(int(empty.argmax()))}: no {name}: fill it in, or drop the line")
    table = table.assign(
        path=_found_files(manifest, folder),
        start=_seconds(manifest, "start").fillna(0.0),
        end=_seconds(manifest, "end"),
        gender=[GENDERS.get(value.lower(), "") for value in table["gender"]],
    )
    checked = Manifest(manifest.source, table, manifest.unit, manifest.numbers)
    _refuse_bad_times(checked)
    _refuse_repeated(checked)
    _refuse_two_genders(checked)
    return checked


def _seconds(manifest: Manifest, name: str) -> pd.Series:
    """Times of a column, missing where none is given."""
    texts = manifest.recordings[name]
    seconds = pd.to_numeric(texts.where(texts != "", np.nan), errors="coerce").astype(float)
    wrong = ((texts != "") & ~np.isfinite(seconds)).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{manifest.where(row)}: {name} is {texts.iloc[row]!r}: give seconds, such as 12.5")
    return seconds


def _found_files(manifest: Manifest, folder: Path) -> list[str]:
    """Absolute path of every row's file."""
    named = manifest.recordings["file"]
    found = {file: _find(file, folder) for file in named.unique()}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        row = int((named == missing[0]).to_numpy().argmax())
        more = f"; {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        at = Path(missing[0]).expanduser()
        told = "" if at.is_absolute() else f", looked for in {folder}, the folder of the manifest"
        raise DataError(f"{manifest.where(row)}: no such file: {missing[0]}{told}{more}")
    return [str(found[file]) for file in named]


def _find(file: str, folder: Path) -> str | None:
    """A file by its name, in composed or decomposed characters; None where it is not."""
    path = os.path.join(folder, os.path.expanduser(file))
    forms = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return next((form for form in forms if os.path.isfile(form)), None)


def _refuse_bad_times(manifest: Manifest) -> None:
    table = manifest.recordings
    start, end = table["start"].to_numpy(), table["end"].to_numpy()
    wrong = (start < 0) | (end <= start)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{manifest.where(row)}: start {start[row]:g} s, end {end[row]:g} s: the start is 0 or more, and "
            "the end after it"
        )
    latest = np.where(np.isfinite(end), end, start)
    order = np.argsort(-latest, kind="stable")
    order = order[latest[order] > 0]
    last_rows = pd.Series(order, index=table["path"].to_numpy()[order]).groupby(level=0, sort=False).first()
    for path, row in last_rows.items():
        try:
            info = audio_info(str(path))
        except AudioError:  # of a format whose length shows when it is decoded
            continue
        duration = info.num_samples / info.sample_rate
        if latest[row] > duration + TOLERANCE_SECONDS:
            raise DataError(
                f"{manifest.where(row)}: {latest[row]:g} s is outside of {path}, which is {duration:g} s long"
            )


def _refuse_repeated(manifest: Manifest) -> None:
    """Refuse recordings that are listed twice, and several speakers in one that is not cut into segments."""
    table = manifest.recordings
    whole = (table["start"] == 0) & table["end"].isna()
    speakers = table.groupby("path")["speaker"].transform("nunique")
    shared = ((speakers > 1) & whole.groupby(table["path"]).transform("any")).to_numpy()
    if shared.any():
        path = table["path"].iloc[int(shared.argmax())]
        rows = np.flatnonzero(table["path"] == path)
        names = listed([f"'{name}'" for name in table["speaker"].iloc[rows].unique()])
        raise DataError(
            f"{manifest.source}: several speakers, {names}, for one file, {path} ({manifest.lines(rows)}): "
            "take the wrong one out, or give start and end of each"
        )
    keys = ["path", *TIMES]
    repeated = table.duplicated(keys, keep=False).to_numpy()
    if repeated.any():
        first = int(repeated.argmax())
        same = (table[keys].fillna(-1) == table[keys].fillna(-1).iloc[first]).all(axis=1)
        rows = np.flatnonzero(same.to_numpy())
        raise DataError(
            f"{manifest.source}: lists a recording twice, {table['file'].iloc[first]} "
            f"({manifest.lines(rows)}): take one out"
        )


def _refuse_two_genders(manifest: Manifest) -> None:
    table = manifest.recordings
    known = table[table["gender"] != ""]
    counts = known.groupby("speaker", sort=False)["gender"].nunique()
    if (counts > 1).any():
        speaker = counts.index[int((counts > 1).to_numpy().argmax())]
        of_speaker = known[known["speaker"] == speaker].drop_duplicates("gender")
        raise DataError(
            f"{manifest.source}: speaker '{speaker}' has two genders "
            f"({manifest.lines(map(int, of_speaker.index))}): correct one of them"
        )
