"""Archives of utterances, VoxCeleb's and LibriSpeech's, converted to 16 kHz mono 16-bit with a manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speaker_verification.audio.format import SAMPLE_RATE, AudioFormat
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.corpora.conversion.archives import is_recording, read_members, safe_parts
from speaker_verification.corpora.conversion.convert import (
    ConvertedFolder,
    Corpus,
    as_table,
    convert_archive,
    recordings_in,
    refuse_short,
    refuse_too_many_rejected,
    rejected_files,
)
from speaker_verification.corpora.conversion.storing import Recording, store_speech

PUBLISHED_COUNTS = {  # speakers and utterances
    "vox1-dev": (1_211, 148_642),
    "vox1-test": (40, 4_874),
    "vox2-dev": (5_994, 1_092_009),
    "vox2-test": (118, 36_237),
    "librispeech-train-clean-100": (251, 28_539),
    "librispeech-dev-clean": (40, 2_703),
    "librispeech-test-clean": (40, 2_620),
}
_LAYOUT = "SPEAKER/SESSION/UTTERANCE.wav, .m4a or .flac"
_MISPLACED = f"not {_LAYOUT}"
_ROOTS = frozenset(("wav", "dev", "aac", "LibriSpeech", "train-clean-100", "dev-clean", "test-clean"))
_EXTENSIONS = ("wav", "m4a", "flac")
# Bytes of 16 kHz 16-bit WAV for every packed byte: VoxCeleb2's AAC has about 68 kbit/s, FLAC halves speech.
_GROWTH = {".wav": 1.0, ".m4a": 4.0, ".flac": 2.0, ".tar": 2.0}
_FLAC_SHARE = 0.6  # bytes of FLAC for every byte of WAV
logger = logging.getLogger(__name__)


def utterance_id_of(member: str) -> str | None:
    """The utterance that an archive member holds.

    Args:
        member: path in the archive, any folders before SPEAKER/SESSION/UTTERANCE.wav, .m4a or .flac; below
            a folder that the published archives have (wav, dev/aac, ...) exactly these three.

    Returns:
        SPEAKER/SESSION/UTTERANCE.wav, or None when the path is not of this form.
    """
    parts = safe_parts(member)
    if parts is None or len(parts) < 3:
        return None
    root = next((place for place, part in enumerate(parts[:-2]) if part in _ROOTS), len(parts) - 3)
    while len(parts) - root > 3 and parts[root] in _ROOTS:
        root += 1
    if len(parts) - root != 3 or parts[root] in _ROOTS:
        return None
    speaker, session, name = parts[root:]
    stem, _, extension = name.rpartition(".")
    return f"{speaker}/{session}/{stem}.wav" if stem and extension in _EXTENSIONS else None


def list_subset(subset: str, archive_files: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The recordings that an archive names, none of which is decoded.

    Args:
        subset: vox1-dev, vox1-test, vox2-dev, vox2-test, ...
        archive_files: the zip or tar archive, or its parts in order.

    Returns:
        Utterances, with columns utterance_id, speaker_id and subset, sorted; and the table of files that
        conversion will refuse for what their names and headers say.

    Raises:
        DataError: the archive is not whole, or holds no recording.
    """
    corpus = Corpus(subset, _recording_of, store_speech, _GROWTH)
    found = as_table(recording for recording, _ in recordings_in(corpus, read_members(archive_files), []))
    if found.empty:
        raise DataError(f"{archive_files[0]}: holds no recording {_LAYOUT}")
    ids = sorted(found.loc[found["reason"] == "", "file_id"])
    speakers = [name.partition("/")[0] for name in ids]
    table = pd.DataFrame({"utterance_id": ids, "speaker_id": speakers, "subset": subset})
    return table, rejected_files(found, subset)


def convert_subset(
    subset: str,
    archive_files: Sequence[Path],
    folder: Path,
    min_duration_seconds: float,
    max_rejected_fraction: float,
    num_workers: int,
    audio_format: AudioFormat = "wav",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert all recordings of an archive; what an earlier run converted from it is kept.

    Args:
        subset: vox1-dev, vox1-test, vox2-dev, vox2-test, ...
        archive_files: the zip or tar archive, or its parts in order.
        folder: recordings become folder/SUBSET/SPEAKER/SESSION/UTTERANCE.wav or .flac.
        min_duration_seconds: shorter recordings are refused.
        max_rejected_fraction: fraction of refused recordings above which the corpus is.
        num_workers: processes that convert; 0 converts in this one.
        audio_format: of the files that are written; ids end in .wav all the same.

    Returns:
        The utterances table and the table of refused files.

    Raises:
        DataError: the archive is not whole, holds no recording, too many were refused, or the disk is full.
    """
    growth = {kind: size * (_FLAC_SHARE if audio_format == "flac" else 1) for kind, size in _GROWTH.items()}
    converted = ConvertedFolder(folder / subset, archive_files, audio_format)
    corpus = Corpus(subset, _recording_of, store_speech, growth, _MISPLACED)
    recordings = convert_archive(corpus, archive_files, converted, num_workers)
    _compare_with_published(subset, recordings["file_id"])
    recordings = refuse_short(recordings, min_duration_seconds)
    rejected = rejected_files(recordings, subset)
    refuse_too_many_rejected(rejected, len(recordings), max_rejected_fraction)
    stored = recordings[recordings["reason"] == ""]
    if stored.empty:
        raise DataError(f"{archive_files[0]}: holds no recording {_LAYOUT}")
    return _manifest(stored, subset, converted), rejected


def _recording_of(member: str) -> Recording | None:
    if not is_recording(member):
        return None  # transcripts, licences, what an operating system has added
    utterance_id = utterance_id_of(member)
    return Recording(utterance_id) if utterance_id else Recording(member, reason=_MISPLACED)


def _compare_with_published(subset: str, file_ids: pd.Series) -> None:
    """Warn when a subset that looks like the published one differs from it in size.

    One of less than half as many utterances is a corpus of its own in the same shape.
    """
    if subset not in PUBLISHED_COUNTS or len(file_ids) < PUBLISHED_COUNTS[subset][1] / 2:
        return
    ids = file_ids[file_ids.map(utterance_id_of).notna()].unique()
    found = (len({name.partition("/")[0] for name in ids}), len(ids))
    for what, count, published in zip(
        ("speakers", "utterances"), found, PUBLISHED_COUNTS[subset], strict=True
    ):
        if count != published:
            logger.warning(
                "%s: %d %s, published are %d: difference %+d",
                subset,
                count,
                what,
                published,
                count - published,
            )


def _manifest(stored: pd.DataFrame, subset: str, converted: ConvertedFolder) -> pd.DataFrame:
    """The utterances table of a subset."""
    ids = stored["file_id"].tolist()
    speakers, sessions, _ = zip(*(utterance_id.split("/") for utterance_id in ids), strict=True)
    table = pd.DataFrame(
        {
            "utterance_id": ids,
            "speaker_id": speakers,
            "session_id": sessions,
            "subset": subset,
            "path": [f"{converted.folder}/{converted.name(utterance_id)}" for utterance_id in ids],
            "num_samples": stored["num_samples"].to_numpy(),
        }
    )
    return UTTERANCES.conform(table.assign(duration_seconds=table["num_samples"] / SAMPLE_RATE))
