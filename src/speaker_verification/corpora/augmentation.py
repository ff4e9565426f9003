"""Extraction of MUSAN's noise clips and the RIRs of RIRS_NOISES, with catalogs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.distributed import processes
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
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.conversion.storing import Recording, store_as_it_is
from speaker_verification.corpora.musan import ANNOTATIONS, MUSAN
from speaker_verification.corpora.rirs_noises import RIR_LIST, RIRS_NOISES, ROOT
from speaker_verification.corpora.texts import decode_text

_JUDGED = "decoded whole"
SHORTEST_CLIP_SECONDS = 0.1  # a shorter clip, wrapped round, is a tone
_GROWTH = {".wav": 1.0, ".tar": 1.1}  # WAV files that gzip hardly packs
_WITHOUT_VOCALS = ".without_vocals.json"  # beside the recordings: what their archive's annotations say
logger = logging.getLogger(__name__)


def extract_musan(
    archive_file: Path, folder: Path, max_rejected_fraction: float, num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Extract MUSAN's recordings, and what its annotations say of vocals; files of an earlier run are kept.

    Music has vocals unless the annotations say that it has none.

    Args:
        archive_file: musan.tar.gz.
        folder: recordings become folder/musan/KIND/SOURCE/NAME.wav.
        max_rejected_fraction: fraction of rejected recordings, 0 to 1, above which the archive is refused.
        num_workers: processes that write; 0 writes in this one.

    Returns:
        The noise_clips table and the table of rejected files.

    Raises:
        DataError: not a whole archive, no recordings, one that the layout does not parse, too many rejected
            ones, or the disk is full.
    """
    conversion = Conversion(MUSAN.name, recording_parser(MUSAN.layout), store_as_it_is, _GROWTH)
    converted = ConvertedFolder(folder / MUSAN.name, ArchiveSource([archive_file]), "wav", _JUDGED)
    recordings = convert_source(conversion, converted, num_workers)
    recordings = refuse_short(recordings, SHORTEST_CLIP_SECONDS)
    group = processes()
    without_vocals = _without_vocals(converted) if group.is_first else []
    group.meet(f"{MUSAN.name} annotated")
    without_vocals = group.first(without_vocals)
    has_vocals = (recordings["kind"] == "music") & ~recordings["file_id"].isin(without_vocals)
    recordings = recordings.assign(vocals=has_vocals)
    return _catalog(recordings, converted, MUSAN.name, NOISE_CLIPS, max_rejected_fraction)


def extract_rirs(
    archive_file: Path, folder: Path, max_rejected_fraction: float, num_workers: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Extract the simulated RIRs, and the measured ones that `rir_list` names, from RIRS_NOISES.

    Args:
        archive_file: rirs_noises.zip.
        folder: RIRs become folder/RIRS_NOISES/..., as in the archive.
        max_rejected_fraction: fraction of rejected RIRs, 0 to 1, above which the archive is refused.
        num_workers: processes that write; 0 writes in this one.

    Returns:
        The rirs table and the table of rejected files.

    Raises:
        DataError: not a whole archive, `rir_list` is not in it, no RIRs, too many rejected ones, or the
            disk is full.
    """
    conversion, absent = _rirs_in(archive_file)
    converted = ConvertedFolder(folder / ROOT, ArchiveSource([archive_file]), "wav", _JUDGED)
    recordings = convert_source(conversion, converted, num_workers)
    recordings = pd.concat([recordings, absent], ignore_index=True)
    return _catalog(recordings, converted, RIRS_NOISES.name, RIRS, max_rejected_fraction)


def check_rirs(archive_file: Path, max_rejected_fraction: float) -> None:
    """Check the RIRs of an archive by its listing, without reading any.

    Args:
        archive_file: rirs_noises.zip.
        max_rejected_fraction: fraction of rejected RIRs, 0 to 1, above which the archive is refused.

    Raises:
        DataError: not a whole archive, `rir_list` is not in it, no RIRs, or too many that would be rejected.
    """
    conversion, absent = _rirs_in(archive_file)
    members = read_members([archive_file])
    named = as_table(recording for recording, _ in recordings_in(conversion, members, []))
    recordings = pd.concat([named, absent], ignore_index=True)
    rejected = rejected_files(recordings, RIRS_NOISES.name)
    refuse_too_many_rejected(rejected, len(recordings), max_rejected_fraction)
    if not (recordings["reason"] == "").any():
        raise DataError(f"{RIRS_NOISES.name}: {archive_file} holds no recordings")


def _without_vocals(converted: ConvertedFolder) -> list[str]:
    """Clips of music without vocals by MUSAN's annotations, for which its archive is gone through once."""
    record = converted.folder / _WITHOUT_VOCALS
    archive = list(converted.source.state())
    if record.is_file() and (known := json.loads(record.read_text(encoding="utf-8")))["archive"] == archive:
        return list(known["clips"])
    logger.info("%s: reading the annotations of its music", MUSAN.name)
    clips, num_annotated = [], 0
    for member in converted.source.members():
        if member.refused or not (found := ANNOTATIONS.fullmatch(member.name)):
            continue
        try:
            lines = decode_text(member.read()).splitlines()
        except DamagedMember as error:
            raise DataError(
                f"{converted.source}: {member.name} is damaged ({error}); copy it again"
            ) from error
        annotations = [fields for line in lines if len(fields := line.split()) > 2]
        num_annotated += len(annotations)
        clips += [f"{found['folder']}/{name}.wav" for name, _, vocals, *_ in annotations if vocals == "N"]
    logger.info("%s: %d of %d annotated clips of music have no vocals", MUSAN.name, len(clips), num_annotated)
    with atomic_write(record) as part:
        part.write_text(json.dumps({"archive": archive, "clips": clips}), encoding="utf-8")
    return clips


def _rirs_in(archive_file: Path) -> tuple[Conversion, pd.DataFrame]:
    """The RIRs of an archive, and the rejected ones that `rir_list` names but the archive does not hold."""
    members = {_from_root(member.name): member for member in read_members([archive_file])}
    real = _listed_rirs(archive_file, members)
    simulated = recording_parser(RIRS_NOISES.layout)

    def recording_of(member: str) -> Recording | None:
        name = _from_root(member)
        if name not in real or not is_recording(member):
            found = simulated(member)
            return found and replace(found, kind="simulated")
        is_placed = safe_parts(name) is not None and name.startswith(f"{ROOT}/")
        return Recording(name.removeprefix(f"{ROOT}/"), "real", reason="" if is_placed else UNSAFE)

    absent = [
        Recording(name.removeprefix(f"{ROOT}/"), reason="named by rir_list, but not in the archive")
        for name in sorted(real - members.keys())
    ]
    return Conversion(ROOT, recording_of, store_as_it_is, _GROWTH), as_table(absent)


def _listed_rirs(archive_file: Path, members: Mapping[str, Member]) -> set[str]:
    if RIR_LIST not in members:
        raise DataError(f"{archive_file}: lacks {RIR_LIST}, which names the measured responses")
    try:
        lines = decode_text(members[RIR_LIST].read()).splitlines()
    except DamagedMember as error:
        raise DataError(f"{archive_file}: {RIR_LIST} is damaged ({error}); copy it again") from error
    return {plain_name(line.split()[-1]) for line in lines if line.strip()}


def _from_root(member: str) -> str:
    """Path of a member of RIRS_NOISES from its own folder on, without the folders in front."""
    parts = safe_parts(member) or ()
    return "/".join(parts[parts.index(ROOT) :]) if ROOT in parts else member


def _catalog(
    recordings: pd.DataFrame,
    converted: ConvertedFolder,
    corpus: str,
    schema: TableSchema,
    max_rejected_fraction: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rejected = rejected_files(recordings, corpus)
    refuse_too_many_rejected(rejected, len(recordings), max_rejected_fraction)
    stored = recordings[recordings["reason"] == ""]
    if stored.empty:
        raise DataError(f"{corpus}: its archive holds no recordings")
    paths = [f"{converted.folder}/{converted.name(file_id)}" for file_id in stored["file_id"]]
    (key,) = schema.key
    catalog = stored.rename(columns={"file_id": key}).assign(path=paths)
    return schema.conform(catalog[schema.columns.names]), rejected
