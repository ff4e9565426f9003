"""Nodes that package the trained model as a verifier."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.deployment.origin import Origin, UsedCorpus, name_encoder
from speaker_verification.deployment.settings import PackageSettings, VerifierSettings
from speaker_verification.scoring.adaptation import adapt
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.scorings import Fitted
from speaker_verification.scoring.settings import (
    EmbedSettings,
    ExtractionSettings,
    ScoreSettings,
    sets_by_use,
)
from speaker_verification.scoring.summary import Metrics

logger = logging.getLogger(__name__)


def describe_origin(
    training_utterances: pd.DataFrame,
    embeddings: EmbeddingStore,
    noise_clips: pd.DataFrame,
    rirs: pd.DataFrame,
    prepare: PrepareSettings,
    augmentation: AugmentationSettings,
    embed: EmbedSettings,
    score: ScoreSettings,
    recipe: str,
) -> Origin:
    """Name the recipe, and the corpora by their use; of a model from elsewhere, not those that trained it."""
    from speaker_verification import __version__
    from speaker_verification.corpora.registry import corpora
    from speaker_verification.corpora.subsets import subsets_of

    sets = {use: subsets_of(name) for use, name in sets_by_use(embed, score.adaptation).items()}
    sets["trials"] = tuple(embeddings.utterances["subset"].unique())
    available = augmentation.available(noise_clips, rirs)
    augments = {"noises": bool(available.clip_kinds), "rirs": available.takes_rooms}
    if embed.model is None:
        sets = {"training": tuple(training_utterances["subset"].unique()), **sets}
    used = [corpus for use, subsets in sets.items() for corpus in _speech(use, subsets)]
    used += [
        UsedCorpus("augmentation", corpus.name, corpus.licence, tuple(corpus.subsets))
        for corpus in corpora()
        if embed.model is None and augments.get(corpus.content)
    ]
    if prepare.mirror is None and prepare.synthetic is not None:
        used = [replace(corpus, name=f"synthetic {corpus.name}", licence="synthetic") for corpus in used]
    return Origin("" if embed.model else recipe, "", tuple(used), __version__)


def _speech(use: str, subsets: Iterable[str]) -> Iterator[UsedCorpus]:
    from speaker_verification.corpora.registry import corpus_of, subsets_by_corpus

    for parts in subsets_by_corpus(subsets).values():
        corpus = corpus_of(parts[0])
        yield UsedCorpus(use, corpus.name, corpus.licence, tuple(parts))


class DecisionParts(NamedTuple):
    """Everything beside the model that decides, as it was measured.

    Attributes:
        cohort: cohort that embeddings are centred on and scores are normalised against.
        calibration: maps to log-likelihood ratios, and operating points.
        fitted: arrays that the scorings learned, by scoring.
        settings: parameters of embedding and scoring, and limits of recordings.
    """

    cohort: Cohort
    calibration: Calibration
    fitted: Mapping[str, Fitted]
    settings: VerifierSettings


def collect_decision_parts(
    cohort_embeddings: EmbeddingStore,
    adaptation_embeddings: EmbeddingStore,
    calibration: Mapping[str, Any],
    fitted_scorings: Mapping[str, Fitted],
    embed: EmbedSettings,
    score: ScoreSettings,
    package: PackageSettings,
) -> DecisionParts:
    """Collect everything beside the model that decisions were measured with."""
    settings = VerifierSettings(
        extraction=ExtractionSettings(**embed.extraction),
        score=score.model_copy(update={"scorings": score.scorings or tuple(score.chosen)}),
        limits=package.limits,
    )
    cohort_set = cohort_embeddings
    if score.adaptation is not None:
        cohort_set = adapt(cohort_set, adaptation_embeddings, score.adaptation)
    cohort = Cohort.of(cohort_set, score.cohort, score.centre)
    return DecisionParts(cohort, Calibration.from_dict(calibration), fitted_scorings, settings)


def assemble_verifier(
    trained_checkpoint: Path,
    decision_parts: DecisionParts,
    metrics: Metrics,
    origin: Origin,
    embed: EmbedSettings,
    package: PackageSettings,
    workspace: Path,
) -> Path:
    """Save the model with all that its decisions were measured with, and a model card."""
    from speaker_verification.deployment.model_card import write_card
    from speaker_verification.deployment.verifier import Verifier
    from speaker_verification.models.speaker_model import SpeakerModel
    from speaker_verification.training.kept_epochs import evaluated_model

    model = SpeakerModel.from_pretrained(evaluated_model(embed, lambda: trained_checkpoint))
    verifier = Verifier(
        model, *decision_parts, metrics, replace(origin, encoder=name_encoder(model.settings))
    )
    folder = workspace / "verifier"
    replace(verifier, card=write_card(verifier, package.licence)).save_pretrained(folder)
    return folder


def prove_verifier(
    assembled_verifier: Path, scores: pd.DataFrame, embeddings: EmbeddingStore, device: str
) -> Path:
    """Compare the verifier's scores with those of the table, from embeddings and from recordings."""
    from speaker_verification.common.device import resolve_device
    from speaker_verification.deployment.proof import prove
    from speaker_verification.deployment.verifier import Verifier

    verifier = Verifier.from_pretrained(assembled_verifier, resolve_device(device))
    used = verifier.settings.limits.max_seconds or math.inf
    if longer := int((embeddings.utterances["duration_seconds"] > used).sum()):
        logger.warning(
            "%d of the trials' %d utterances are longer than package.limits.max_seconds %g: they were "
            "measured whole, and the verifier uses their beginning",
            longer,
            len(embeddings.utterances),
            used,
        )
    prove(verifier, scores, embeddings)
    return assembled_verifier
