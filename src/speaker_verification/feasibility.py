"""What a corpus makes impossible, refused before any of its audio is read."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter
from speaker_verification.corpora.mirror import ARCHIVES, Mirror
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.speakers import known_speakers
from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset
from speaker_verification.corpora.trials import gather_trials
from speaker_verification.corpora.utterances import list_subset
from speaker_verification.corpora.validation import hold_out_speakers
from speaker_verification.errors import DataError, ParameterError
from speaker_verification.models.pretrained_encoders import find_encoder
from speaker_verification.parameters import Parameters
from speaker_verification.scoring.normalisation import check_cohort_size

RUN_FILE = "run.json"  # of a checkpoint


def list_corpus(mirror: str, prepare: PrepareSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a mirror's archives and trial lists name, without reading a recording.

    Args:
        mirror: its folder.
        prepare: what is taken from it.

    Returns:
        Utterances (utterance_id, speaker_id, subset), and the trials table.
    """
    files = Mirror(Path(mirror))
    listed = [list_subset(subset, files.files(ARCHIVES[subset])) for subset in prepare.subsets]
    utterances = pd.concat(listed, ignore_index=True)
    speakers = known_speakers(files, prepare.subsets)
    return utterances, gather_trials(prepare, files.folder, utterances, speakers)


def refuse_impossible(
    parameters: Parameters, utterances: pd.DataFrame, trials: pd.DataFrame, stages: Collection[str]
) -> None:
    """Refuse parameters that a corpus cannot serve.

    Args:
        parameters: of the run.
        utterances: columns utterance_id, speaker_id and subset at least.
        trials: the trials table.
        stages: what is going to run: pretrain, finetune, lmft, evaluate.

    Raises:
        ParameterError: the parameter is named, with what the corpus allows.
        DataError: the corpus lacks a subset.
    """
    prepare, embed = parameters.prepare, parameters.embed
    phases = {name: phase for name, phase in parameters.phases.items() if name in stages and phase.epochs}
    if phases:
        training_set = select_subset(utterances, prepare.training_set)
        refuse_seen_speakers(
            trials, utterances, prepare.training_set, "prepare.training_set", prepare.allow_seen_speakers
        )
        training, _ = hold_out_speakers(training_set, prepare.validation_speakers, prepare.seed)
        num_speakers = training["speaker_id"].nunique()
    for name, phase in phases.items():
        num_classes = num_speakers * parameters.pretrain.num_speed_classes
        if phase.margin.top_k >= num_classes:
            raise ParameterError(
                f"parameter '{name}.margin.top_k' is {phase.margin.top_k}: it must be below the "
                f"{num_classes} classes of {num_speakers} training speakers"
            )
        if phase.sampling.unique_speakers and phase.batch_size > num_speakers:
            raise ParameterError(
                f"parameter '{name}.batch_size' is {phase.batch_size}: with sampling.unique_speakers it must "
                f"not exceed the {num_speakers} training speakers"
            )
        if phase.steps_per_epoch is None and phase.examples_per_step > len(training):
            raise ParameterError(
                f"parameter '{name}.batch_size' makes steps of {phase.examples_per_step} examples, more than "
                f"the {len(training)} training utterances: lower it, or set {name}.steps_per_epoch"
            )
    if "evaluate" in stages:
        cohort = select_subset(utterances, embed.cohort_set)
        refuse_seen_speakers(
            trials, utterances, embed.cohort_set, "embed.cohort_set", embed.allow_seen_speakers
        )
        counts = cohort["speaker_id"].value_counts().to_numpy()
        of_cohort = np.ones_like(counts) if parameters.score.cohort == "speaker_means" else counts
        check_cohort_size(parameters.score.cohort_size, of_cohort, num_excluded=2)


def locate_encoder(checkpoint: str, downloads: Path) -> Path:
    """Folder of the encoder that training starts from, on this machine.

    Args:
        checkpoint: hub name or folder.
        downloads: folder of downloaded encoders.

    Raises:
        DataError: it has to be downloaded first, or there is no such folder.
    """
    folder = find_encoder(checkpoint, downloads)
    if folder is None:
        raise DataError(
            f"encoder '{checkpoint}' (model.frontend.checkpoint) is no folder and neither in {downloads} nor "
            "in the hub's cache: run first: kedro run --pipeline=download"
        )
    return folder


def refuse_missing_augmentation(
    settings: AugmentationSettings, noise_clips: pd.DataFrame, room_responses: pd.DataFrame
) -> None:
    """Refuse augmentation with clips or room responses that were not prepared.

    Raises:
        DataError: the table and the parameters are named.
    """
    if not settings.probability:
        return
    try:
        Augmenter(noise_clips, room_responses, settings)
    except DataError as error:
        raise DataError(
            f"{error}, as augmentation.probability = {settings.probability:g} with augmentation.kinds wants: "
            "run first: kedro run --pipeline=prepare, or set augmentation.probability=0"
        ) from error


def refuse_other_split(prepare: PrepareSettings, utterances: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Refuse parameters that are not those which the validation speakers were prepared with.

    Args:
        prepare: of the run.
        utterances: the manifest.
        validation: the held-out utterances as they were prepared.

    Raises:
        ParameterError: the parameters of the split are named.
    """
    training_set = select_subset(utterances, prepare.training_set)
    _, expected = hold_out_speakers(training_set, prepare.validation_speakers, prepare.seed)
    if set(expected["speaker_id"]) != set(validation["speaker_id"]):
        raise ParameterError(
            f"prepare.seed = {prepare.seed}, prepare.validation_speakers = {prepare.validation_speakers} and "
            f"prepare.training_set = '{prepare.training_set}' give other validation speakers than were "
            "prepared: set them as they were, or run first: kedro run --pipeline=prepare"
        )


def refuse_trained_validation(model: Path, validation: pd.DataFrame) -> None:
    """Refuse to calibrate on validation speakers that a model was trained on: they were drawn anew since.

    Args:
        model: its folder; one without a record of its training is taken as it is.
        validation: utterances of the validation speakers.

    Raises:
        ParameterError: the model and the number of speakers are named.
    """
    record = model / RUN_FILE
    if not record.is_file():
        return
    trained = set(json.loads(record.read_text(encoding="utf-8")).get("speaker_ids", ()))
    speakers = set(validation["speaker_id"])
    if shared := trained & speakers:
        raise ParameterError(
            f"score.calibration_speakers = 'validation', but {model} was trained on {len(shared)} of these "
            f"{len(speakers)} speakers: prepare with the prepare.seed, prepare.validation_speakers and "
            "prepare.training_set that it was trained with, train it again, or take 'cohort'"
        )
