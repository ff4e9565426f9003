"""Recordings whose speakers are known: a table, a CSV file, or a folder of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError, listed
from speaker_verification.deployment.recordings import FORMATS

COLUMNS = {
    "file": "utterance_id",
    "speaker": "speaker_id",
    "session": "session_id",
}  # here, and of the result
SUFFIXES = tuple(f".{name}" for name in FORMATS.split(", "))


def label_recordings(source: pd.DataFrame | str | Path) -> pd.DataFrame:
    """Recordings with their speakers: columns utterance_id, speaker_id, session_id and path.

    Ids of utterances are the files as they are named, ids of sessions empty where sessions are not known.

    Args:
        source: table, or CSV file, with the columns file and speaker and maybe session, whose files are
            relative to the working directory or to the folder of the CSV file; or a folder of
            SPEAKER/FILE or SPEAKER/SESSION/FILE, of which the files with names of audio are taken.

    Raises:
        DataError: there is no such table or folder, a value or a file is missing, or a file is listed twice.
    """
    if isinstance(source, pd.DataFrame):
        return _checked(source, "the table of recordings", Path())
    path = Path(source).expanduser()
    if path.is_dir():
        return _checked(_list_folder(path), f"'{path}'", path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # ValueError: of the encoding, or of pandas' parser
        raise DataError(f"'{path}' is no CSV file of recordings: {error}") from error
    return _checked(table, f"'{path}'", path.parent)


def _list_folder(folder: Path) -> pd.DataFrame:
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [
        name
        for name in files
        if name.suffix.lower() in SUFFIXES and len(name.parts) > 1 and not _is_hidden(name)
    ]
    if not names:
        raise DataError(f"'{folder}' holds no recordings: put them there as SPEAKER/FILE ({FORMATS})")
    columns = {"file": [name.as_posix() for name in names], "speaker": [name.parts[0] for name in names]}
    if all(len(name.parts) > 2 for name in names):
        columns["session"] = [name.parts[1] for name in names]
    return pd.DataFrame(columns)


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _checked(table: pd.DataFrame, where: str, folder: Path) -> pd.DataFrame:
    columns = [name for name in COLUMNS if name in table or name != "session"]
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"{where} has no column '{missing[0]}' among {listed(list(table))}: add it")
    if table.empty:
        raise DataError(f"{where} lists no recordings: write one a line")
    given = table[columns].reset_index(drop=True)
    empty = given.isna() | (given.astype(str) == "")
    for name in columns:
        if empty[name].any():
            row = int(empty[name].to_numpy().argmax()) + 1
            raise DataError(f"{where}: recording {row} has no {name}: fill it in, or leave the recording out")
    labelled = given.astype(str).rename(columns=COLUMNS)
    names = labelled["utterance_id"]
    if repeated := names[names.duplicated()].tolist():
        raise DataError(f"{where} lists recordings twice: {listed(repeated)}")
    paths = [folder / Path(name).expanduser() for name in names]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise DataError(f"{where}: no such file: {listed(missing)}")
    return pd.DataFrame({"session_id": "", **labelled, "path": [str(path.absolute()) for path in paths]})
