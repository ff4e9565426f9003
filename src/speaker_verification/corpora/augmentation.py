"""MUSAN's noises and RIRS_NOISES' RIRs, taken out of their archives, with catalogs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import NOISE_CLIPS, RIRS, TableSchema
from speaker_verification.corpora.conversion.archives import (
    DamagedMember,
    Member,
    is_recording,
    plain_name,
    read_members,
    safe_parts,
)
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
from speaker_verification.corpora.conversion.storing import Recording, store_as_it_is
from speaker_verification.corpora.texts import decode_text

MUSAN = "musan"
RIRS_NOISES = "RIRS_NOISES"
RIR_LIST = f"{RIRS_NOISES}/real_rirs_isotropic_noises/rir_list"
NOISE_KINDS = ("noise", "music", "speech")
_SIMULATED = re.compile(rf"{RIRS_NOISES}/simulated_rirs/[^/]+/[^/]+/[^/]+\.wav")
_MISPLACED = "not where this corpus keeps its recordings"
_JUDGED = "decoded whole"
SHORTEST_CLIP_SECONDS = 0.1  # a shorter clip, wrapped round, is a tone
_GROWTH = {".wav": 1.0, ".tar": 1.1}  # WAV files that gzip hardly packs


def extract_musan(
    archive_file: Path, folder: Path, max_rejected_fraction: float, num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take MUSAN's recordings out of its archive; what an earlier run took out of it stays.

    Args:
        archive_file: musan.tar.gz.
        folder: recordings become folder/musan/KIND/SOURCE/NAME.wav.
        max_rejected_fraction: fraction of refused recordings above which the corpus is.
        num_workers: processes that write; 0 writes in this one.

    Returns:
        The noise_clips table and the table of refused files.

    Raises:
        DataError: not a whole archive, no recordings, too many are refused, or the disk is full.
    """
    corpus = Corpus(MUSAN, _musan_recording, store_as_it_is, _GROWTH)
    converted = ConvertedFolder(folder / MUSAN, [archive_file], "wav", _JUDGED)
    recordings = convert_archive(corpus, [archive_file], converted, num_workers)
    recordings = refuse_short(recordings, SHORTEST_CLIP_SECONDS)
    return _catalog(recordings, converted, MUSAN, NOISE_CLIPS, max_rejected_fraction)


def extract_rirs(
    archive_file: Path, folder: Path, max_rejected_fraction: float, num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the simulated RIRs, and the measured ones that `rir_list` names, out of RIRS_NOISES.

    Args:
        archive_file: rirs_noises.zip.
        folder: responses become folder/RIRS_NOISES/..., as in the archive.
        max_rejected_fraction: fraction of refused responses above which the corpus is.
        num_workers: processes that write; 0 writes in this one.

    Returns:
        The rirs table and the table of refused files.

    Raises:
        DataError: not a whole archive, `rir_list` is not in it, no responses, too many are refused, or the
            disk is full.
    """
    corpus, absent = _rirs_in(archive_file)
    converted = ConvertedFolder(folder / RIRS_NOISES, [archive_file], "wav", _JUDGED)
    recordings = convert_archive(corpus, [archive_file], converted, num_workers)
    recordings = pd.concat([recordings, absent], ignore_index=True)
    return _catalog(recordings, converted, RIRS_NOISES, RIRS, max_rejected_fraction)


def check_rirs(archive_file: Path, max_rejected_fraction: float) -> None:
    """Judge the RIRs of an archive by its listing, without reading any.

    Args:
        archive_file: rirs_noises.zip.
        max_rejected_fraction: fraction of refused responses above which the corpus is.

    Raises:
        DataError: not a whole archive, `rir_list` is not in it, no responses, or too many would be refused.
    """
    corpus, absent = _rirs_in(archive_file)
    named = as_table(recording for recording, _ in recordings_in(corpus, read_members([archive_file]), []))
    recordings = pd.concat([named, absent], ignore_index=True)
    refuse_too_many_rejected(
        rejected_files(recordings, RIRS_NOISES.lower()), len(recordings), max_rejected_fraction
    )
    if not (recordings["reason"] == "").any():
        raise DataError(f"{RIRS_NOISES}: its archive holds no recordings")


def _rirs_in(archive_file: Path) -> tuple[Corpus, pd.DataFrame]:
    """The RIRs of an archive, and the refused ones that it names but does not hold."""
    members = {_from(RIRS_NOISES, member.name): member for member in read_members([archive_file])}
    real = _listed_rirs(archive_file, members)

    def recording_of(member: str) -> Recording | None:
        name = _from(RIRS_NOISES, member)
        if not is_recording(member) or not (_SIMULATED.fullmatch(name) or name in real):
            return None  # noises, and measured responses that are not listed
        is_placed = safe_parts(name) is not None and name.startswith(f"{RIRS_NOISES}/")
        kind = "real" if name in real else "simulated"
        return Recording(name.removeprefix(f"{RIRS_NOISES}/"), kind, reason="" if is_placed else _MISPLACED)

    absent = [
        Recording(name.removeprefix(f"{RIRS_NOISES}/"), reason="named by rir_list, but not in the archive")
        for name in sorted(real - members.keys())
    ]
    return Corpus(RIRS_NOISES, recording_of, store_as_it_is, _GROWTH), as_table(absent)


def _listed_rirs(archive_file: Path, members: Mapping[str, Member]) -> set[str]:
    if RIR_LIST not in members:
        raise DataError(f"{archive_file}: lacks {RIR_LIST}, which names the measured responses")
    try:
        lines = decode_text(members[RIR_LIST].read()).splitlines()
    except DamagedMember as error:
        raise DataError(f"{archive_file}: {RIR_LIST} is damaged ({error}); copy it anew") from error
    return {plain_name(line.split()[-1]) for line in lines if line.strip()}


def _musan_recording(member: str) -> Recording | None:
    if not is_recording(member):
        return None  # licences, annotations, what an operating system has added
    name = _from(MUSAN, member)
    parts = safe_parts(name) or ()
    is_placed = len(parts) == 4 and parts[0] == MUSAN and parts[1] in NOISE_KINDS and name.endswith(".wav")
    clip_id = name.removeprefix(f"{MUSAN}/")
    return Recording(clip_id, parts[1]) if is_placed else Recording(clip_id, reason=_MISPLACED)


def _from(root: str, member: str) -> str:
    """A member's path from a corpus' own folder on, whatever folders are in front of it."""
    parts = safe_parts(member) or ()
    return "/".join(parts[parts.index(root) :]) if root in parts else member


def _catalog(
    recordings: pd.DataFrame,
    converted: ConvertedFolder,
    corpus: str,
    schema: TableSchema,
    max_rejected_fraction: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rejected = rejected_files(recordings, corpus.lower())
    refuse_too_many_rejected(rejected, len(recordings), max_rejected_fraction)
    stored = recordings[recordings["reason"] == ""]
    if stored.empty:
        raise DataError(f"{corpus}: its archive holds no recordings")
    paths = [f"{converted.folder}/{converted.name(file_id)}" for file_id in stored["file_id"]]
    (key,) = schema.key
    catalog = stored.rename(columns={"file_id": key}).assign(path=paths)
    return schema.conform(catalog[schema.columns.names]), rejected
