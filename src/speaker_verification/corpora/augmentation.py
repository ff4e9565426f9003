"""MUSAN's noises and RIRS_NOISES' room responses, taken out of their archives, with catalogs."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from speaker_verification.audio.files import AudioError, AudioInfo, audio_info
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.corpora.archives import DAMAGED_MEMBER, is_link, open_zip, safe_parts
from speaker_verification.corpora.conversion import (
    Freshness,
    refuse_too_many_rejected,
    rejected_table,
)
from speaker_verification.errors import DataError
from speaker_verification.tables import NOISE_CLIPS, ROOM_RESPONSES, TableSchema
from speaker_verification.whole import written_whole

MUSAN = "musan"
RIRS_NOISES = "RIRS_NOISES"
RIR_LIST = f"{RIRS_NOISES}/real_rirs_isotropic_noises/rir_list"
NOISE_KINDS = ("noise", "music", "speech")
_SIMULATED = re.compile(rf"{RIRS_NOISES}/simulated_rirs/[^/]+/[^/]+/[^/]+\.wav")
_MISPLACED = "a link, or not where this corpus keeps its recordings"


@dataclass(frozen=True)
class _Member:
    """A recording in an archive: its path there, its kind, its bytes, or the reason why it is refused."""

    name: str
    kind: str = ""
    data: bytes = b""
    reason: str = ""


def extract_musan(
    archive_file: Path, folder: Path, max_rejected_fraction: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take MUSAN's recordings out of its archive.

    Args:
        archive_file: musan.tar.gz.
        folder: recordings become folder/musan/KIND/SOURCE/NAME.wav.
        max_rejected_fraction: fraction of refused recordings above which the corpus is.

    Returns:
        The noise_clips table and the table of refused files.

    Raises:
        DataError: not a whole archive, no recordings, or too many are refused.
    """
    fresh = Freshness(folder / MUSAN, [archive_file])
    return _extract(_musan_members(archive_file), MUSAN, folder, fresh, NOISE_CLIPS, max_rejected_fraction)


def extract_room_responses(
    archive_file: Path, folder: Path, max_rejected_fraction: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the simulated room responses, and the measured ones that `rir_list` names, out of RIRS_NOISES.

    Args:
        archive_file: rirs_noises.zip.
        folder: responses become folder/RIRS_NOISES/..., as in the archive.
        max_rejected_fraction: fraction of refused responses above which the corpus is.

    Returns:
        The room_responses table and the table of refused files.

    Raises:
        DataError: not a whole archive, `rir_list` is not in it, no responses, or too many are refused.
    """
    fresh = Freshness(folder / RIRS_NOISES, [archive_file])
    members = _response_members(archive_file)
    return _extract(members, RIRS_NOISES, folder, fresh, ROOM_RESPONSES, max_rejected_fraction)


def _musan_members(archive_file: Path) -> Iterator[_Member]:
    try:
        with tarfile.open(archive_file, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isdir() or not name.endswith(".wav"):
                    continue  # licences, annotations
                parts = safe_parts(name) or ()
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and len(parts) == 4 and parts[0] == MUSAN and parts[1] in NOISE_KINDS:
                    yield _Member(name, parts[1], file.read())
                else:
                    yield _Member(name, reason=_MISPLACED)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{archive_file}: not a whole tar.gz archive ({error}); copy it anew") from error


def _response_members(archive_file: Path) -> Iterator[_Member]:
    with open_zip([archive_file]) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if RIR_LIST not in members:
            raise DataError(f"{archive_file}: lacks {RIR_LIST}, which names the measured responses")
        lines = archive.read(RIR_LIST).decode().splitlines()
        real = [line.split()[-1] for line in lines if line.strip()]
        simulated = [name for name in members if _SIMULATED.fullmatch(name)]
        kinds = dict.fromkeys(real, "real") | dict.fromkeys(simulated, "simulated")
        for name, kind in kinds.items():
            if name not in members:
                yield _Member(name, reason="named by rir_list, but not in the archive")
            elif safe_parts(name) is None or not name.startswith(RIRS_NOISES) or is_link(members[name]):
                yield _Member(name, reason=_MISPLACED)
            else:
                try:
                    yield _Member(name, kind, archive.read(name))
                except DAMAGED_MEMBER as error:
                    yield _Member(name, reason=f"damaged in the archive: {error}")


def _extract(
    members: Iterable[_Member],
    corpus: str,
    folder: Path,
    fresh: Freshness,
    schema: TableSchema,
    max_rejected_fraction: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    from rich.progress import track

    rows: list[tuple[str, str, str, int, int]] = []
    rejected: list[tuple[str, str]] = []
    for member in track(members, description=f"extract {corpus}"):
        path = folder / member.name
        clip_id = member.name.removeprefix(f"{corpus}/")
        try:
            info = _keep(member, path, fresh)
        except AudioError as error:
            rejected.append((clip_id, error.reason))
        else:
            rows.append((clip_id, member.kind, str(path), info.num_samples, info.num_channels))
    refused = rejected_table(rejected, corpus.lower())
    refuse_too_many_rejected(refused, len(rows) + len(rejected), max_rejected_fraction)
    if not rows:
        raise DataError(f"{corpus}: its archive holds no recordings")
    table = pd.DataFrame(sorted(rows), columns=schema.columns.names)
    return schema.conform(table), refused


def _keep(member: _Member, path: Path, fresh: Freshness) -> AudioInfo:
    """Write a recording as it is, unless an earlier run has, and look whether it is of use."""
    if member.reason:
        raise AudioError(member.name, member.reason)
    if not fresh.holds(path):
        with written_whole(path) as part:
            part.write_bytes(member.data)
    info = audio_info(path)
    if info.sample_rate != SAMPLE_RATE:
        raise AudioError(member.name, f"{info.sample_rate} Hz instead of {SAMPLE_RATE}")
    if not info.num_samples:
        raise AudioError(member.name, "no samples")
    return info
