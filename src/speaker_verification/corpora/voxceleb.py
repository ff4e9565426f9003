"""VoxCeleb's archives of recordings, converted to 16 kHz mono 16-bit WAV with a manifest."""

from __future__ import annotations

import multiprocessing
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from speaker_verification.audio.files import AudioError, audio_info, decode_audio, write_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.corpora.archives import DAMAGED_MEMBER, is_link, open_zip, safe_parts
from speaker_verification.corpora.conversion import Freshness, refuse_too_many_rejected, rejected_table
from speaker_verification.errors import DataError
from speaker_verification.tables import UTTERANCES

_JOBS_PER_WORKER = 16


@dataclass(frozen=True)
class Conversion:
    """One recording on its way to disk.

    Attributes:
        utterance_id: SPEAKER/SESSION/UTTERANCE.wav.
        path: the file to write.
        source: the encoded recording; None when the file is there already, or nothing can be read.
        reason: why the recording cannot be read at all, else empty.
        num_samples: its length, once it is converted; 0 before and when it is refused.
    """

    utterance_id: str
    path: Path
    source: bytes | None = None
    reason: str = ""
    num_samples: int = 0


def utterance_id_of(member: str) -> str | None:
    """The utterance that an archive member holds.

    Args:
        member: path in the archive, any folders before SPEAKER/SESSION/UTTERANCE.wav or .m4a.

    Returns:
        SPEAKER/SESSION/UTTERANCE.wav, or None when the path is not of this form.
    """
    parts = safe_parts(member)
    if parts is None or len(parts) < 3:
        return None
    *_, speaker, session, name = parts
    stem, _, extension = name.rpartition(".")
    return f"{speaker}/{session}/{stem}.wav" if stem and extension in ("wav", "m4a") else None


def list_subset(subset: str, archive_files: Sequence[Path]) -> pd.DataFrame:
    """The recordings that an archive names, none of which is read.

    Args:
        subset: vox1-dev, vox1-test, vox2-dev or vox2-test.
        archive_files: the zip archive, or its parts in order.

    Returns:
        Columns utterance_id, speaker_id, subset; sorted.

    Raises:
        DataError: the archive is not whole.
    """
    with open_zip(archive_files) as archive:
        ids = sorted({name for member in archive.namelist() if (name := utterance_id_of(member))})
    speakers = [name.partition("/")[0] for name in ids]
    return pd.DataFrame({"utterance_id": ids, "speaker_id": speakers, "subset": subset})


def convert_subset(
    subset: str,
    archive_files: Sequence[Path],
    folder: Path,
    min_duration_seconds: float,
    max_rejected_fraction: float,
    num_workers: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert all recordings of an archive; what an earlier run converted from it is kept.

    The archive is read in this process, from front to back; decoding and writing go to the workers.

    Args:
        subset: vox1-dev, vox1-test, vox2-dev or vox2-test.
        archive_files: the zip archive, or its parts in order.
        folder: recordings become folder/SUBSET/SPEAKER/SESSION/UTTERANCE.wav.
        min_duration_seconds: shorter recordings are refused.
        max_rejected_fraction: fraction of refused recordings above which the corpus is.
        num_workers: processes that convert; 0 converts in this one.

    Returns:
        The utterances table and the table of refused files.

    Raises:
        DataError: the archive is not whole, holds no recording, or too many were refused.
    """
    from rich.progress import track

    folder = folder / subset
    lengths: dict[str, int] = {}
    rejected: list[tuple[str, str]] = []
    with open_zip(archive_files) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        jobs = _jobs(archive, members, folder, Freshness(folder, archive_files))
        done = _convert_all(jobs, min_duration_seconds, num_workers)
        for item in track(done, description=f"convert {subset}", total=len(members)):
            if item.reason:
                rejected.append((item.utterance_id, item.reason))
            else:
                lengths[item.utterance_id] = item.num_samples
    refused = rejected_table(rejected, subset)
    refuse_too_many_rejected(refused, len(members), max_rejected_fraction)
    if not lengths:
        raise DataError(f"{archive_files[0]}: holds no recording SPEAKER/SESSION/UTTERANCE.wav or .m4a")
    return _manifest(lengths, subset, folder), refused


def _manifest(lengths: Mapping[str, int], subset: str, folder: Path) -> pd.DataFrame:
    """The utterances table of a subset, from the number of samples of each utterance."""
    ids = sorted(lengths)
    speakers, sessions, _ = zip(*(utterance_id.split("/") for utterance_id in ids), strict=True)
    table = pd.DataFrame(
        {
            "utterance_id": ids,
            "speaker_id": speakers,
            "session_id": sessions,
            "subset": subset,
            "path": [str(folder / utterance_id) for utterance_id in ids],
            "num_samples": [lengths[utterance_id] for utterance_id in ids],
        }
    )
    return UTTERANCES.conform(table.assign(duration_seconds=table["num_samples"] / SAMPLE_RATE))


def _jobs(
    archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo], folder: Path, fresh: Freshness
) -> Iterator[Conversion]:
    seen: set[str] = set()
    for member in members:
        utterance_id = utterance_id_of(member.filename)
        if utterance_id is None or is_link(member):
            reason = "a link" if is_link(member) else "not SPEAKER/SESSION/UTTERANCE.wav or .m4a"
            yield Conversion(member.filename, folder, reason=reason)
            continue
        path = folder / utterance_id
        if utterance_id in seen:
            yield Conversion(utterance_id, path, reason="stands more than once in the archive")
        elif fresh.holds(path) and (num_samples := _whole_length(path)):
            yield Conversion(utterance_id, path, num_samples=num_samples)
        else:
            try:
                yield Conversion(utterance_id, path, source=archive.read(member))
            except DAMAGED_MEMBER as error:
                yield Conversion(utterance_id, path, reason=f"damaged in the archive: {error}")
        seen.add(utterance_id)


def _convert_all(
    jobs: Iterator[Conversion], min_duration_seconds: float, num_workers: int
) -> Iterator[Conversion]:
    """Convert in order; so few jobs are under way at a time that their bytes fit into memory."""
    if num_workers == 0:
        yield from (_convert(job, min_duration_seconds) for job in jobs)
        return
    waiting: deque[Future[Conversion]] = deque()
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        for job in jobs:
            if job.source is None:  # nothing to decode: not worth the way to a worker
                waiting.append(Future())
                waiting[-1].set_result(_convert(job, min_duration_seconds))
            else:
                waiting.append(pool.submit(_convert, job, min_duration_seconds))
            if len(waiting) >= _JOBS_PER_WORKER * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _whole_length(path: Path) -> int:
    """Length of a file that an earlier run converted; 0 when it has been damaged since."""
    try:
        info = audio_info(path)
    except AudioError:
        return 0
    return info.num_samples if (info.sample_rate, info.num_channels) == (SAMPLE_RATE, 1) else 0


def _convert(job: Conversion, min_duration_seconds: float) -> Conversion:
    if job.source is not None:
        try:
            samples = decode_audio(job.source, job.utterance_id)
        except AudioError as error:
            return replace(job, source=None, reason=error.reason)
        if not samples.any():
            return replace(job, source=None, reason="silent")
        write_audio(job.path, samples)
        job = replace(job, source=None, num_samples=len(samples))
    too_short = job.num_samples < min_duration_seconds * SAMPLE_RATE
    if too_short and not job.reason:
        return replace(job, reason=f"{job.num_samples} samples, shorter than {min_duration_seconds:g} s")
    return job
