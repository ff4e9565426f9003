"""Manifests of speech archives, whose recordings are converted to 16 kHz mono 16-bit or used as they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from speaker_verification.audio.format import AS_IS, SAMPLE_RATE, CorpusFormat
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.corpora.conversion.convert import (
    UNSAFE,
    Conversion,
    ConvertedFolder,
    as_table,
    convert_source,
    recording_parser,
    recordings_in,
    refuse_short,
    refuse_too_many_rejected,
    rejected_files,
)
from speaker_verification.corpora.conversion.sources import Source
from speaker_verification.corpora.conversion.storing import store_speech
from speaker_verification.corpora.registry import corpus_of

# Bytes of 16 kHz 16-bit WAV for every packed byte: VoxCeleb2's AAC has about 68 kbit/s, FLAC halves speech.
_GROWTH = {".wav": 1.0, ".m4a": 4.0, ".flac": 2.0, ".tar": 2.0}
_FLAC_SHARE = 0.6  # bytes of FLAC for every byte of WAV
logger = logging.getLogger(__name__)


def list_subset(subset: str, source: Source) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the recordings of a subset by their names; none is decoded.

    Args:
        subset: name of a corpus's subset (vox1-dev, librispeech-dev-clean, ...).
        source: source of its recordings.

    Returns:
        Utterances, with columns utterance_id, speaker_id and subset, sorted; and the table of files that
        conversion will reject for their names and headers (see `refuse_too_many_rejected`).

    Raises:
        ParameterError: the subset is unknown.
        DataError: the archive is not whole, or holds no recording.
    """
    conversion = _conversion(subset)
    found = as_table(recording for recording, _ in recordings_in(conversion, source.members(), []))
    if found.empty:
        raise _no_recording(subset, source)
    ids = sorted(found.loc[found["reason"] == "", "file_id"])
    speakers = [name.partition("/")[0] for name in ids]
    table = pd.DataFrame({"utterance_id": ids, "speaker_id": speakers, "subset": subset})
    return table, rejected_files(found, subset)


def convert_subset(
    subset: str,
    source: Source,
    folder: Path,
    min_duration_seconds: float,
    max_rejected_fraction: float,
    num_workers: int,
    audio_format: CorpusFormat = "wav",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert all recordings of a subset, or find their places; files of an earlier run are kept.

    Args:
        subset: name of a corpus's subset (vox1-dev, librispeech-dev-clean, ...).
        source: source of its recordings.
        folder: recordings become folder/SUBSET/SPEAKER/SESSION/UTTERANCE.wav or .flac; used as they are,
            they have a record in folder/as_is/SUBSET alone.
        min_duration_seconds: least duration; shorter recordings are rejected.
        max_rejected_fraction: fraction of rejected recordings, 0 to 1, above which the archive is refused.
        num_workers: processes that convert; 0 converts in this one.
        audio_format: format of the written files; as_is writes none. Ids end in .wav in every format.

    Returns:
        The utterances table and the table of rejected files.

    Raises:
        ParameterError: the subset is unknown.
        DataError: the archive is not whole, holds no recording, or one that its layout does not parse; too
            many were rejected, or the disk is full.
    """
    growth = {kind: size * (_FLAC_SHARE if audio_format == "flac" else 1) for kind, size in _GROWTH.items()}
    folder = folder / AS_IS if audio_format == AS_IS else folder
    converted = ConvertedFolder(folder / subset, source, audio_format)
    recordings = convert_source(_conversion(subset, growth), converted, num_workers)
    recordings = refuse_short(recordings, min_duration_seconds)
    rejected = rejected_files(recordings, subset)
    refuse_too_many_rejected(rejected, len(recordings), max_rejected_fraction)
    _compare_with_published(subset, recordings.loc[recordings["reason"] != UNSAFE, "file_id"])
    stored = recordings[recordings["reason"] == ""]
    if stored.empty:
        raise _no_recording(subset, source)
    return _manifest(stored, subset, converted), rejected


def _conversion(subset: str, growth: Mapping[str, float] = _GROWTH) -> Conversion:
    return Conversion(subset, recording_parser(corpus_of(subset).layout_of(subset)), store_speech, growth)


def _no_recording(subset: str, source: Source) -> DataError:
    expected = corpus_of(subset).layout_of(subset).expected
    return DataError(f"{source}: holds no recording of {subset}, {expected}")


def _compare_with_published(subset: str, file_ids: pd.Series) -> None:
    """Warn of a subset whose numbers of speakers and utterances are not the published ones.

    One of less than half as many utterances is a corpus of its own in the same shape.
    """
    published = corpus_of(subset).subsets[subset]
    ids = file_ids.unique()
    if published.num_utterances is None or len(ids) < published.num_utterances / 2:
        return
    num_speakers = len({name.partition("/")[0] for name in ids})
    for what, count, expected in (
        ("speakers", num_speakers, published.num_speakers),
        ("utterances", len(ids), published.num_utterances),
    ):
        if expected is not None and count != expected:
            logger.warning(
                "%s: %d %s, published are %d: difference %+d",
                *(subset, count, what, expected, count - expected),
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
            "num_samples": stored["num_samples"].to_numpy(),
        }
    )
    if converted.is_in_place:
        root = str(converted.source.root.absolute())
        table["path"] = [os.path.join(root, path) for path in stored["path"]]
        places = ["offset", "num_bytes", "deflated", "codec", "crc32", "first_sample"]
        table[places] = stored[places].to_numpy()
    else:
        table["path"] = [f"{converted.folder}/{converted.name(utterance_id)}" for utterance_id in ids]
    return UTTERANCES.conform(table.assign(duration_seconds=table["num_samples"] / SAMPLE_RATE))
