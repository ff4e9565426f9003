"""Nodes that take embeddings of another toolkit in place of those of a trained model; none reads audio."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pandas as pd

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.tables import TRIALS, UTTERANCES
from speaker_verification.corpora.trials.trial_lists import describe_lists
from speaker_verification.corpora.trials.trials import read_trial_list
from speaker_verification.scoring import imported
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.settings import EmbedSettings, ImportSettings

_Value = TypeVar("_Value")


def read_utterances(import_embeddings: ImportSettings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read the speakers of the embeddings' utterances.

    Returns:
        The utterances table, the speakers table, and the table of validation utterances, without rows.

    Raises:
        ParameterError: no table is named.
        DataError: as `imported.read_utterances`.
    """
    paths = _given("utterances", import_embeddings.utterances, "the tables of utterances, such as utt2spk")
    return *imported.read_utterances([Path(path) for path in paths]), UTTERANCES.empty()


def read_trials(
    import_embeddings: ImportSettings, imported_utterances: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the trial lists, with the ids of the utterances table.

    Returns:
        The trials table and the trial_lists table.

    Raises:
        ParameterError: no list is named.
        DataError: as `read_trial_list` and `imported.match_trials`.
    """
    lists = _given("trial_lists", import_embeddings.trial_lists, "the trial lists to measure")
    files = {name: Path(file) for name, file in lists.items()}
    trials = TRIALS.concat([read_trial_list(file, name) for name, file in files.items()])
    trials = imported.match_trials(trials, imported_utterances)
    return trials, describe_lists(trials, files, imported_utterances)


def import_trial_embeddings(
    imported_utterances: pd.DataFrame, trials: pd.DataFrame, import_embeddings: ImportSettings
) -> EmbeddingStore:
    """Take the embeddings of the trials' utterances from a file.

    Raises:
        ParameterError: no file is named.
        DataError: as `imported.import_trial_embeddings`.
    """
    path = Path(
        _given("trials", import_embeddings.trials, "the file of embeddings of the trials' utterances")
    )
    return imported.import_trial_embeddings(path, imported_utterances, trials, import_embeddings.name)


def import_cohort_embeddings(
    imported_utterances: pd.DataFrame,
    embeddings: EmbeddingStore,
    import_embeddings: ImportSettings,
    embed: EmbedSettings,
) -> EmbeddingStore:
    """Take all embeddings of another file as the cohort, which must not hold the trials' speakers.

    Raises:
        ParameterError: no file is named, or speakers of the trials are in it.
        DataError: as `imported.import_cohort_embeddings`, or the trials' embeddings are of another width.
    """
    path = Path(_given("cohort", import_embeddings.cohort, "the file of embeddings of other speakers"))
    cohort = imported.import_cohort_embeddings(
        path, imported_utterances, embeddings.utterances, import_embeddings.name, embed.allow_seen_speakers
    )
    embeddings.refuse_other_model(cohort)
    return cohort


def _given(name: str, value: _Value | None, what: str) -> _Value:
    if not value:
        raise ParameterError(f"no embeddings to import: set import_embeddings.{name} to {what}")
    return value
