"""Verifier of a model from anywhere, calibrated and measured on recordings of known speakers."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.checksums import sha256_of
from speaker_verification.common.errors import DataError, ParameterError, listed
from speaker_verification.common.progress import shown
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.deployment.embedding_cache import EmbeddingCache
from speaker_verification.deployment.labelled_recordings import label_recordings
from speaker_verification.deployment.model_card import write_card
from speaker_verification.deployment.origin import Origin, UsedCorpus, name_encoder
from speaker_verification.deployment.proof import prove
from speaker_verification.deployment.recordings import RecordingError, read_recording
from speaker_verification.deployment.settings import VerifierSettings
from speaker_verification.deployment.verifier import (
    MANIFEST_FILE,
    Verifier,
    embed_recordings,
    refuse_other_folder,
)
from speaker_verification.models.importing.public_checkpoints import import_checkpoint, is_public_checkpoint
from speaker_verification.models.speaker_model import SpeakerModel, weights_digest
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.cross_validation import (
    CROSS_VALIDATION,
    LeftOutScores,
    cross_validate,
    draw_folds,
    fewest_fitted,
    fit_parts,
)
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import score_trials
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import Metrics, add_remarks, format_table, metrics_of_trials
from speaker_verification.scoring.trial_speakers import speakers_of_trials

SCORINGS = ("cosine", "as_norm", "qmf")  # of a verifier that nobody chose others for
NOT_STATED = "not stated"

logger = logging.getLogger(__name__)


def load_model(source: SpeakerModel | str | Path, device: str | torch.device = "cpu") -> SpeakerModel:
    """Speaker model, of whatever holds one.

    Args:
        source: model; folder that `SpeakerModel.save_pretrained` wrote; folder of a verifier; or a checkpoint
            of the public codes, as `import_checkpoint` takes it.
        device: device of a model that is loaded.

    Raises:
        DataError: there is no model.
    """
    if isinstance(source, SpeakerModel):
        return source.eval()
    path = Path(source).expanduser()
    if is_public_checkpoint(path):
        return import_checkpoint(path).to(device)
    if (path / MANIFEST_FILE).is_file():
        return Verifier.from_pretrained(path, device).model
    return SpeakerModel.from_pretrained(path, device)


def build_verifier(
    model: SpeakerModel | str | Path,
    recordings: pd.DataFrame | str | Path,
    folder: str | Path,
    settings: VerifierSettings | None = None,
    *,
    seed: int = 0,
    corpus: str = "recordings",
    licence: str = "other",
    drop_refused: bool = False,
    device: str | torch.device = "cpu",
) -> Verifier:
    """Make a verifier folder of a model and recordings of the domain that it is for.

    Cohort, scorings and calibration are fitted on all recordings. Error rates are those of cross-validation:
    the trials of a fifth of the speakers are scored by what was fitted on the others, five times. Where
    sessions are known, target trials are between two sessions.

    The folder appears once the verifier in it is proven to give the scores that were computed. An interrupted
    call embeds only the remaining recordings when it is repeated: until then, a hidden file beside the folder
    keeps the embeddings.

    Args:
        model: see `load_model`.
        recordings: see `label_recordings`.
        folder: folder of the verifier; an earlier verifier there is replaced.
        settings: excerpts, scorings and limits of recordings. Where `score.scorings` is not set, they are
            cosine, AS-norm, QMF and the one that `score.llr` names; where `score.top_n` is not, it is as
            many as the speakers allow, up to 600.
        seed: seed of folds and trials.
        corpus: name of the recordings on the card.
        licence: licence of the model on the card, by its name on the Hugging Face hub.
        drop_refused: leave out recordings that the limits refuse, with a warning; others are errors.
        device: device of the model.

    Returns:
        The verifier, as loaded from the folder.

    Raises:
        DataError: there is no model, recordings are refused, repeated or of too few speakers, or the folder
            holds something else.
        ParameterError: settings do not fit the number of speakers.
    """
    folder, settings = Path(folder).expanduser().absolute(), settings or VerifierSettings()
    refuse_other_folder(folder)
    labelled = label_recordings(recordings)
    _fit_to_speakers(settings.score, labelled, seed)
    model = load_model(model, device)
    kept = folder.with_name(f".{folder.name}.embeddings.sqlite")
    store = _embed(model, labelled.assign(subset=corpus), settings, kept, drop_refused)
    score = _fit_to_speakers(settings.score, store.utterances, seed)
    budget = score.budget(str(model.device))
    left_out = cross_validate(store, score, seed, budget)
    parts = fit_parts(store, score, seed, budget)
    verifier = Verifier(
        model,
        *parts,
        settings.model_copy(update={"score": score}),
        _measure(left_out, parts.calibration, store.utterances, score),
        _origin(model, corpus),
    )
    scores = score_trials(left_out.trials, store, *parts, score, budget)
    with atomic_write(folder) as part:
        replace(verifier, card=write_card(verifier, licence)).save_pretrained(part)
        loaded = Verifier.from_pretrained(part, model.device)
        prove(loaded, scores, store, settings.limits)
    kept.unlink(missing_ok=True)
    return loaded


def _fit_to_speakers(settings: ScoreSettings, utterances: pd.DataFrame, seed: int) -> ScoreSettings:
    """Parameters of the scorings with what depends on the speakers filled in, where nobody has set it.

    Raises:
        DataError: the speakers do not suffice.
        ParameterError: parameters do not fit them.
    """
    if settings.calibration_speakers != "cohort":
        raise ParameterError(
            f"parameter 'score.calibration_speakers' is '{settings.calibration_speakers}', but nothing is "
            "trained here that speakers are held out from: take 'cohort'"
        )
    if settings.adaptation is not None:
        raise ParameterError(
            f"parameter 'score.adaptation' is '{settings.adaptation}', but cohort and calibration are of "
            "recordings of the domain here: leave it out"
        )
    chosen: dict[str, Any] = {
        "calibration_sessions": "across" if (utterances["session_id"] != "").all() else "any",
        "scorings": tuple(dict.fromkeys((*SCORINGS, settings.llr))),
        "top_n": min(settings.top_n, fewest_fitted(utterances["speaker_id"]) - 2),
    }
    chosen = {name: value for name, value in chosen.items() if name not in settings.model_fields_set}
    fitted = settings.model_copy(update=chosen)
    folds = draw_folds(utterances, seed, fitted.calibration_sessions == "across")
    for fold in np.unique(folds):
        counts = utterances["speaker_id"][folds != fold].value_counts().to_numpy()
        for scoring in fitted.chosen.values():
            scoring.check_cohort(fitted, counts)
    return fitted


def _embed(
    model: SpeakerModel,
    labelled: pd.DataFrame,
    settings: VerifierSettings,
    kept: Path,
    drop_refused: bool,
) -> EmbeddingStore:
    """Embeddings of labelled recordings, with a table of the UTTERANCES schema.

    Raises:
        DataError: recordings are refused, or the same as others.
    """
    weights = weights_digest(model.state_dict())
    how = " ".join([weights, settings.extraction.model_dump_json(), settings.limits.model_dump_json()])
    embedded: dict[int, EmbeddingStore] = {}
    same: dict[str, str] = {}
    refused, repeated = [], []

    def embed(path: str, name: str) -> EmbeddingStore:
        recording = read_recording(path, settings.limits, name)
        return embed_recordings(model, [recording], settings.extraction, weights)

    with EmbeddingCache.opened(kept, weights) as cache:
        for row in shown("Embedding recordings", range(len(labelled))):
            name, path = (labelled[column].iloc[row] for column in ("utterance_id", "path"))
            try:
                digest = _digest(path, name)
                if (other := same.setdefault(digest, name)) != name:
                    repeated.append(f"{name} and {other}")
                    continue
                embedded[row] = cache.find_or_keep(f"{digest} {how}", partial(embed, path, name))
            except RecordingError as error:
                refused.append(error)
    if repeated:
        raise DataError(f"{len(repeated)} recordings are copies of others: {listed(repeated)}: take them out")
    if refused and not (drop_refused and embedded):
        raise DataError(f"{len(refused)} of {len(labelled)} recordings are refused: {listed(refused, '; ')}")
    for left_out in refused:
        logger.warning("left out: %s", left_out)
    joined = EmbeddingStore.joined(list(embedded.values()))
    lengths = joined.utterances[["num_samples", "duration_seconds"]]
    utterances = labelled.iloc[list(embedded)].reset_index(drop=True).assign(**lengths)
    return replace(joined, utterances=UTTERANCES.conform(utterances))


def _digest(path: str, name: str) -> str:
    """SHA-256 of a recording.

    Raises:
        RecordingError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise RecordingError(name, "unreadable", f"cannot be read: {error.strerror}") from error


def _measure(
    left_out: LeftOutScores, calibration: Calibration, utterances: pd.DataFrame, settings: ScoreSettings
) -> Metrics:
    """Error rates of cross-validation, with the remarks of the verifier's own calibration."""
    measured = metrics_of_trials(
        left_out.trials["label"].to_numpy(),
        speakers_of_trials(left_out.trials, utterances),
        left_out.scores,
        lambda scoring, _: left_out.llrs[scoring],
        settings,
    )
    add_remarks(measured, calibration, settings.operating_points)
    metrics = {CROSS_VALIDATION: measured}
    logger.info("Results\n%s", format_table(metrics))
    return metrics


def _origin(model: SpeakerModel, corpus: str) -> Origin:
    used = (UsedCorpus(use, corpus, NOT_STATED) for use in ("cohort and calibration", "trials"))
    return Origin("", name_encoder(model.settings), tuple(used), version("speaker-verification"))
