"""Nodes that embed utterances with the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from speaker_verification.common.distributed import processes
from speaker_verification.common.tables import require_files
from speaker_verification.config.phases import (
    ADAPTATION_EMBEDDINGS,
    CALIBRATION_EMBEDDINGS,
    COHORT_EMBEDDINGS,
    EMBEDDINGS,
    EVALUATION,
)
from speaker_verification.hooks.tracking import begin
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.extraction import extract_embeddings, utterances_in_trials
from speaker_verification.scoring.settings import EmbedSettings

if TYPE_CHECKING:
    from speaker_verification.models.speaker_model import SpeakerModel


def embed_trial_utterances(
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    embed: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    """Embed each utterance that occurs in a trial, once."""
    in_trials = utterances_in_trials(utterances, trials)
    folder = workspace / EMBEDDINGS
    return _embed(in_trials, trained_checkpoint, embed, device, folder)


def embed_cohort(
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    embed: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    """Embed the cohort set, which must not hold the trials' speakers unless the parameters allow it."""
    from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset

    cohort = select_subset(utterances, embed.cohort_set, embed.cohort_utterances_per_speaker)
    refuse_seen_speakers(trials, utterances, embed.cohort_set, "embed.cohort_set", embed.allow_seen_speakers)
    whole = embed.model_copy(update={"num_crops": 0})
    return _embed(cohort, trained_checkpoint, whole, device, workspace / COHORT_EMBEDDINGS)


def embed_calibration_set(
    trained_checkpoint: Path,
    cohort_embeddings: EmbeddingStore,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    embed: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    """Embed the calibration set, where it is another than the cohort set."""
    return _embed_set(
        "calibration_set",
        [cohort_embeddings],
        trained_checkpoint,
        utterances,
        trials,
        embed,
        device,
        workspace / CALIBRATION_EMBEDDINGS,
    )


def embed_adaptation_set(
    trained_checkpoint: Path,
    cohort_embeddings: EmbeddingStore,
    calibration_embeddings: EmbeddingStore,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    embed: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    """Embed the unlabelled recordings of the domain to adapt to, where there are any."""
    return _embed_set(
        "adaptation_set",
        [cohort_embeddings, calibration_embeddings],
        trained_checkpoint,
        utterances,
        trials,
        embed,
        device,
        workspace / ADAPTATION_EMBEDDINGS,
    )


def _embed_set(
    role: str,
    embedded: Sequence[EmbeddingStore],
    trained_checkpoint: Path,
    utterances: pd.DataFrame,
    trials: pd.DataFrame,
    embed: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    """Embeddings of a named set, empty where none is named; those that are there already are copied."""
    from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset

    if role not in embed.named_sets:
        return EmbeddingStore.empty()
    name = embed.named_sets[role]
    refuse_seen_speakers(trials, utterances, name, f"embed.{role}", embed.allow_seen_speakers)
    missing = selected = select_subset(utterances, name)
    parts: list[EmbeddingStore] = []
    for store in embedded:
        rows = pd.Index(store.utterances["utterance_id"]).get_indexer(missing["utterance_id"])
        if (rows >= 0).any():
            parts.append(store.at(rows[rows >= 0]))
            missing = missing[rows < 0].reset_index(drop=True)
    if len(missing):
        whole = embed.model_copy(update={"num_crops": 0})
        parts.append(_embed(missing, trained_checkpoint, whole, device, workspace))
    joined = EmbeddingStore.joined(parts)
    return joined.at(joined.rows_of(selected["utterance_id"]))


def _embed(
    utterances: pd.DataFrame,
    trained_checkpoint: Path,
    settings: EmbedSettings,
    device: str,
    workspace: Path,
) -> EmbeddingStore:
    from speaker_verification.models.speaker_model import weights_digest

    require_files({"utterances": utterances})
    model = _load_model(trained_checkpoint, settings, device)
    weights = weights_digest(model.state_dict())
    store = extract_embeddings(
        model,
        utterances,
        **settings.extraction,
        num_workers=settings.num_workers,
        progress=processes().is_first,
        workspace=workspace,
        weights=weights,
        piece_seconds=settings.save_every_seconds,
    )
    return replace(store, model=weights)


def _load_model(trained_checkpoint: Path, settings: EmbedSettings, device: str) -> SpeakerModel:
    from speaker_verification.common.device import resolve_device
    from speaker_verification.models.speaker_model import SpeakerModel
    from speaker_verification.training.kept_epochs import evaluated_model

    folder = evaluated_model(settings, lambda: trained_checkpoint)
    model = SpeakerModel.from_pretrained(folder, resolve_device(device))
    begin(EVALUATION)
    return model
