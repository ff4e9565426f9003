"""Embeddings of another toolkit in place of those of a trained model: their utterances, trials and stores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import SPEAKERS, TRIALS, UTTERANCES, durations_known
from speaker_verification.scoring.embedding_files import EmbeddingFile, open_embeddings
from speaker_verification.scoring.embeddings import IMPORTED, EmbeddingStore
from speaker_verification.scoring.extraction import utterances_in_trials
from speaker_verification.scoring.matching import match_ids, nearest_id
from speaker_verification.scoring.score_files import read_speaker_file

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
_OPTIONAL = ("session_id", "subset", "duration_seconds", "gender", "nationality")
_ROWS_OF_NORMS = 1024


def read_utterances(paths: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Utterances and speakers of another toolkit's embeddings.

    Where a table names no sessions, a speaker has one. Durations are those of all utterances or of none.

    Args:
        paths: text files with `UTTERANCE_ID SPEAKER_ID` on each line (Kaldi's utt2spk); folders of Kaldi with
            utt2spk and maybe utt2dur; or tables as .csv or .parquet with utterance_id, speaker_id and maybe
            session_id, subset, duration_seconds, gender and nationality.

    Returns:
        The utterances table, without paths, and the speakers table.

    Raises:
        DataError: as `read_speaker_file`; a duration is no positive number, or two tables have an utterance.
    """
    tables = []
    for path in paths:
        table = _read_folder(path) if path.is_dir() else read_speaker_file(path, _OPTIONAL)
        table["duration_seconds"] = _durations(table, path)
        of_folder = path if path.is_dir() else path.parent
        named = {"subset": of_folder.name if path.name == "utt2spk" or path.is_dir() else path.stem}
        tables.append(table.assign(**{name: value for name, value in named.items() if name not in table}))
    utterances = pd.concat(tables, ignore_index=True)
    repeated = utterances["utterance_id"].duplicated()
    if repeated.any():
        name = utterances["utterance_id"][repeated].iloc[0]
        where = [
            str(path) for path, table in zip(paths, tables, strict=True) if name in set(table["utterance_id"])
        ]
        raise DataError(f"two speakers of {name}, in {' and '.join(where)}")
    if not durations_known(utterances):
        unknown = int((utterances["duration_seconds"] == 0).sum())
        logger.warning(
            "the durations of %d of %d utterances are not known (%s): QMF goes without durations, and there "
            "are no error rates by duration",
            *(unknown, len(utterances), ", ".join(map(str, paths))),
        )
        utterances["duration_seconds"] = 0.0
    sessions = utterances.get("session_id", pd.Series(index=utterances.index, dtype=object))
    utterances["session_id"] = sessions.fillna(utterances["speaker_id"]).astype(str)
    samples = (utterances["duration_seconds"] * SAMPLE_RATE).round().astype(np.int64)
    columns = [name for name in UTTERANCES.columns.names if name in utterances]
    return UTTERANCES.conform(utterances[columns].assign(path="", num_samples=samples)), _speakers(utterances)


def _read_folder(path: Path) -> pd.DataFrame:
    table = read_speaker_file(path / "utt2spk")
    if (path / "utt2dur").is_file():
        durations = read_speaker_file(path / "utt2dur").set_index("utterance_id")["speaker_id"]
        table["duration_seconds"] = table["utterance_id"].map(durations)
    return table


def _durations(table: pd.DataFrame, path: Path) -> pd.Series:
    """Seconds of each utterance, 0 where they are missing."""
    given = table.get("duration_seconds", pd.Series(index=table.index, dtype=float))
    seconds = pd.to_numeric(given, errors="coerce")
    wrong = given.notna() & ~((seconds > 0) & np.isfinite(seconds))
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{path}: the duration of {table['utterance_id'].iloc[row]} is '{given.iloc[row]}': seconds are "
            "needed"
        )
    return seconds.fillna(0.0).astype(float)


def _speakers(utterances: pd.DataFrame) -> pd.DataFrame:
    """The speakers table; what no table tells is unknown."""
    facts = utterances.reindex(columns=SPEAKERS.columns.names).astype(object)
    return SPEAKERS.conform(facts.groupby("speaker_id", as_index=False).first().fillna(UNKNOWN))


def match_trials(trials: pd.DataFrame, utterances: pd.DataFrame) -> pd.DataFrame:
    """Trials with the ids of the utterances table.

    Args:
        trials: table of the TRIALS schema, whose ids may be variants of those in the table.
        utterances: the utterances table.

    Raises:
        DataError: as `match_ids`, or the table lacks utterances; the first is named, with the nearest id that
            the table has.
    """
    sides = ("enroll_id", "test_id")
    asked = sorted({*trials["enroll_id"].cat.categories, *trials["test_id"].cat.categories})
    known = utterances["utterance_id"].tolist()
    rows = match_ids(asked, known, "the tables of utterances")
    _refuse_missing(asked, rows, known, "utterances of the trials are in no table of utterances")
    id_of = dict(zip(asked, (known[row] for row in rows), strict=True))
    return TRIALS.conform(trials.assign(**{side: trials[side].map(id_of) for side in sides}))


def import_trial_embeddings(
    path: Path, utterances: pd.DataFrame, trials: pd.DataFrame, system: str
) -> EmbeddingStore:
    """Embeddings of each utterance that occurs in a trial, in the order of the utterances table.

    Args:
        path: file of embeddings, which may hold more.
        utterances: the utterances table.
        trials: the trials table.
        system: name of the system that made the embeddings.

    Raises:
        DataError: as `open_embeddings`, `EmbeddingFile.take` and `match_ids`; utterances have no embedding.
    """
    file = open_embeddings(path)
    in_trials = utterances_in_trials(utterances, trials)
    asked = in_trials["utterance_id"].tolist()
    rows = match_ids(asked, file.names, str(path))
    _refuse_missing(asked, rows, file.names, f"utterances of the trials have no embedding in {path}")
    return _store_of(file, rows, in_trials, system)


def import_cohort_embeddings(
    path: Path, utterances: pd.DataFrame, tested: pd.DataFrame, system: str, allow_seen_speakers: bool = False
) -> EmbeddingStore:
    """All embeddings of a file as a cohort, in the order of the utterances table.

    Args:
        path: file of embeddings.
        utterances: the utterances table.
        tested: utterances of the trials, whose speakers must not be in the cohort.
        system: name of the system that made the embeddings.
        allow_seen_speakers: allow speakers of the trials in the cohort.

    Raises:
        DataError: as `open_embeddings`, `EmbeddingFile.take` and `match_ids`; an embedding is of no utterance
            in the table, or two are of one.
        ParameterError: speakers of the trials are in the cohort.
    """
    file = open_embeddings(path)
    known = utterances["utterance_id"].tolist()
    row_of_name = match_ids(file.names, known, "the tables of utterances")
    _refuse_missing(file.names, row_of_name, known, f"embeddings in {path} are in no table of utterances")
    places, first = np.unique(row_of_name, return_index=True)
    if len(places) < len(row_of_name):
        twice = known[row_of_name[pd.Series(row_of_name).duplicated().to_numpy()][0]]
        raise DataError(f"{path}: two embeddings of {twice}")
    cohort = utterances.iloc[places].reset_index(drop=True)
    seen = {*cohort["speaker_id"]} & {*tested["speaker_id"]}
    if seen and not allow_seen_speakers:
        raise ParameterError(
            f"the cohort {path} holds {len(seen)} speakers of the trials, such as {min(seen)}: take a file "
            "of other speakers, or set embed.allow_seen_speakers"
        )
    return _store_of(file, first, cohort, system)


def _store_of(file: EmbeddingFile, rows: np.ndarray, utterances: pd.DataFrame, system: str) -> EmbeddingStore:
    embeddings = file.take(rows)
    norms = np.linalg.norm(embeddings[:_ROWS_OF_NORMS], axis=1)
    if np.allclose(norms, 1.0, atol=1e-3):
        logger.info("%s: embeddings have length 1, so that their norms tell QMF nothing", file.path)
    logger.info("%s: %d embeddings of %d numbers", file.path, *embeddings.shape)
    return EmbeddingStore(embeddings, utterances, model=IMPORTED + system)


def _refuse_missing(asked: Sequence[str], rows: np.ndarray, known: Sequence[str], what: str) -> None:
    if (rows < 0).any():
        first = asked[int((rows < 0).argmax())]
        raise DataError(
            f"{(rows < 0).sum()} {what}; the first: {first}, the nearest to it: {nearest_id(first, known)}"
        )
