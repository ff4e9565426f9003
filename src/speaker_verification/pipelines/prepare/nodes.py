"""Nodes of data preparation."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import ParameterError, in_group
from speaker_verification.common.tables import NOISE_CLIPS, REJECTED_FILES, RIRS
from speaker_verification.corpora.augmentation import extract_musan, extract_rirs
from speaker_verification.corpora.download.addresses import is_address
from speaker_verification.corpora.download.sources import augmentation_files, needed_files
from speaker_verification.corpora.mirror import Digests, Mirror
from speaker_verification.corpora.musan import MUSAN_ARCHIVE
from speaker_verification.corpora.own_corpora import own_names, own_sources
from speaker_verification.corpora.rirs_noises import RIRS_NOISES_ARCHIVE
from speaker_verification.corpora.sessions import count_missing_sessions
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.shards import read_shards
from speaker_verification.corpora.speakers import read_speakers
from speaker_verification.corpora.subsets import refuse_seen_speakers, select_subset
from speaker_verification.corpora.trials.trial_lists import describe_lists
from speaker_verification.corpora.trials.trials import gather_trials
from speaker_verification.corpora.utterances import convert_subset
from speaker_verification.corpora.validation import draw_validation_trials, hold_out_speakers

logger = logging.getLogger(__name__)
ANOTHER_MIRROR = "copy it again, or set the parameter prepare.mirror"


def provide_mirror(
    prepare: PrepareSettings, augmentation: AugmentationSettings, mirror_folder: Path, audio_folder: Path
) -> Mirror:
    """Find the mirror, or write a synthetic one, and verify it before the first conversion.

    Args:
        prepare: settings of data preparation.
        augmentation: settings of the augmentation.
        mirror_folder: folder of downloaded files or a synthetic mirror.
        audio_folder: folder of the converted recordings.

    Returns:
        The mirror, with the recordings that manifests list.

    Raises:
        ParameterError: there is neither a mirror nor settings for a synthetic one.
        DataError: the mirror is missing, lacks files, or holds altered ones; or the recordings are of another
            synthetic mirror; or a manifest is wrong.
    """
    needed = needed_files(prepare, augmentation)
    mirror = _find_mirror(prepare, mirror_folder, bool(needed), is_in_use=any(audio_folder.iterdir()))
    at_hand = [name for name in augmentation_files(augmentation) if (mirror.folder / name).is_file()]
    checked = dict.fromkeys([*needed, *at_hand])
    mirror.check(checked, Digests(mirror_folder) if prepare.verify_checksums else None)
    mirror = replace(mirror, own=own_sources(prepare.corpora, prepare.seed))
    for line in mirror.describe([*prepare.mirrored_subsets, *mirror.own]):
        logger.info("%s", line)
    return mirror


def _find_mirror(prepare: PrepareSettings, mirror_folder: Path, is_needed: bool, is_in_use: bool) -> Mirror:
    by_address = is_address(prepare.mirror)
    if prepare.mirror is not None and not by_address:
        return Mirror(Path(prepare.mirror), ANOTHER_MIRROR)
    if prepare.synthetic is not None and not by_address:
        from speaker_verification.corpora.synthetic.mirror import (
            is_synthetic_mirror,
            refuse_other_mirror,
            write_synthetic_mirror,
        )

        synthetic, seed = prepare.synthetic, prepare.seed
        if is_in_use:
            refuse_other_mirror(mirror_folder, synthetic, seed)
        if not is_synthetic_mirror(mirror_folder, synthetic, seed):
            write_synthetic_mirror(mirror_folder, synthetic, seed, prepare.num_workers)
        return Mirror(mirror_folder, ANOTHER_MIRROR)
    download = "run first: kedro run --pipeline=download"
    if by_address:
        return Mirror(mirror_folder, f"{download} --params=prepare.mirror={prepare.mirror}")
    if is_needed and not any(mirror_folder.iterdir()):
        raise ParameterError(
            "no mirror: set prepare.mirror to a folder with VoxCeleb's archives, or prepare.synthetic, or "
            + download
        )
    return Mirror(mirror_folder, download)


def convert_utterances(
    mirror: Mirror, audio_folder: Path, prepare: PrepareSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert all recordings to 16 kHz mono, or find the places of those that are used where they are.

    Args:
        mirror: mirror of the corpora.
        audio_folder: folder of the converted recordings.
        prepare: settings of data preparation.

    Returns:
        The utterances table and the table of rejected files.
    """
    if prepare.shards is not None:
        return read_shards(Path(prepare.shards), prepare.all_subsets, prepare.min_duration_seconds)
    converted = [
        convert_subset(
            subset,
            mirror.source(subset),
            audio_folder,
            prepare.min_duration_seconds,
            prepare.max_rejected_fraction,
            prepare.num_workers,
            prepare.audio_format,
        )
        for subset in prepare.all_subsets
    ]
    utterances, rejected = (pd.concat(tables, ignore_index=True) for tables in zip(*converted, strict=True))
    return utterances, rejected


def list_speakers(mirror: Mirror, prepare: PrepareSettings) -> pd.DataFrame:
    """Read the published facts about the speakers.

    Args:
        mirror: mirror of the corpora.
        prepare: settings of data preparation.

    Returns:
        The speakers table.
    """
    return read_speakers(mirror, prepare.all_subsets)


def list_missing_sessions(mirror: Mirror, utterances: pd.DataFrame, prepare: PrepareSettings) -> pd.DataFrame:
    """Count by speaker what is missing of a corpus that vanishes from where it was.

    Args:
        mirror: mirror of the corpora.
        utterances: the manifest.
        prepare: settings of data preparation.

    Returns:
        The missing_sessions table.
    """
    return count_missing_sessions(mirror, utterances, prepare.subsets)


def list_trials(
    mirror: Mirror, utterances: pd.DataFrame, speakers: pd.DataFrame, prepare: PrepareSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read or draw the trial lists and check that the manifest has all their utterances.

    Args:
        mirror: mirror of the corpora.
        utterances: the manifest.
        speakers: the speakers table.
        prepare: settings of data preparation.

    Returns:
        The trials table and the trial_lists table.
    """
    trials = gather_trials(prepare, mirror.folder, utterances, speakers, own_names(mirror.own))
    files = {name: mirror.list_file(file) for name, file in prepare.list_files.items()}
    return trials, describe_lists(trials, files, utterances)


def extract_augmentation(
    mirror: Mirror, augmentation_folder: Path, prepare: PrepareSettings, augmentation: AugmentationSettings
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Extract noise clips and RIRs from their archives, where training augments with them.

    Args:
        mirror: mirror of the corpora.
        augmentation_folder: folder of the extracted files.
        prepare: settings of data preparation.
        augmentation: settings of the augmentation.

    Returns:
        The noise_clips table, the rirs table and the table of rejected files; tables of an unused
        kind are empty.
    """
    noise_clips, rirs = NOISE_CLIPS.empty(), RIRS.empty()
    absent = [name for name in augmentation_files(augmentation) if not (mirror.folder / name).is_file()]
    if absent:  # provide_mirror has refused that, unless it is to be left out
        logger.warning(
            "%s lacks %s: training does without their kinds of augmentation", mirror.folder, ", ".join(absent)
        )
    rejected_clips = rejected_rirs = REJECTED_FILES.empty()
    limits = (prepare.max_rejected_fraction, prepare.num_workers)
    if augmentation.clip_kinds and MUSAN_ARCHIVE.name not in absent:
        archive = mirror.folder / MUSAN_ARCHIVE.name
        noise_clips, rejected_clips = extract_musan(archive, augmentation_folder, *limits)
    if augmentation.takes_rooms and RIRS_NOISES_ARCHIVE.name not in absent:
        archive = mirror.folder / RIRS_NOISES_ARCHIVE.name
        rirs, rejected_rirs = extract_rirs(archive, augmentation_folder, *limits)
    return noise_clips, rirs, REJECTED_FILES.concat([rejected_clips, rejected_rirs])


def hold_out_validation(
    utterances: pd.DataFrame, trials: pd.DataFrame, prepare: PrepareSettings
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split the training set into speakers to train on and speakers to choose checkpoints by.

    Args:
        utterances: the manifest.
        trials: the trials table; its speakers must not be trained on.
        prepare: settings of data preparation.

    Returns:
        The utterances to train on, the held-out ones, and the trials among the held-out ones.
    """
    name = prepare.training_set
    refuse_seen_speakers(trials, utterances, name, "prepare.training_set", prepare.allow_seen_speakers)
    with in_group("prepare"):
        training, validation = hold_out_speakers(
            select_subset(utterances, name), prepare.validation_speakers, prepare.seed
        )
    drawn = draw_validation_trials(validation, prepare.validation_trials, prepare.seed)
    return training, validation, drawn
