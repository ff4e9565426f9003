"""Conversion of archive members to audio files, by a pool of processes.

The imports of the processes are light on purpose: no tables, no settings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from speaker_verification.audio.files import (
    AudioError,
    AudioInfo,
    audio_info,
    check_audio,
    decode_audio,
    write_audio,
)
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.places import Place
from speaker_verification.audio.probing import probe_audio
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.archives import DamagedMember, Member

_BATCH_MEMBERS = 32
_BATCH_BYTES = 8 << 20  # unpacked; a few batches for every process are under way at a time
_BATCHES_PER_WORKER = 3
_SECONDS_ALONE = 3.0  # about what it takes to start the processes
NOWHERE = Place("")

# (bytes of a member, file to write) -> facts of the written file; raises AudioError for an unusable recording
Store = Callable[[bytes, Path], AudioInfo]


@dataclass(frozen=True)
class Recording:
    """A recording of a corpus, and the result of its conversion.

    Attributes:
        file_id: id in tables.
        kind: simulated, music, ...; empty for utterances.
        num_samples: length per channel; 0 before the conversion.
        num_channels: channels of the file; 0 before the conversion.
        num_bytes: size of the file, or in the archive; 0 before the conversion, and for a file of the corpus
            that is used as it is.
        reason: reason of a rejection, else empty; a rejected recording has no file.
        place: its bytes where they are used as they are.
        codec: ending of its file then, else empty.
        first_sample: first sample of it there.
    """

    file_id: str
    kind: str = ""
    num_samples: int = 0
    num_channels: int = 0
    num_bytes: int = 0
    reason: str = ""
    place: Place = NOWHERE
    codec: str = ""
    first_sample: int = 0


@dataclass(frozen=True)
class Job:
    """Conversion of one recording.

    Attributes:
        recording: the recording, with a reason when it is rejected already.
        member: archive member that holds it.
        path: file to write; None: the recording is used as it is, where it is.
        is_there: whether an earlier run wrote the file.
    """

    recording: Recording
    member: Member
    path: Path | None
    is_there: bool


def store_speech(source: bytes, path: Path) -> AudioInfo:
    """Convert a recording to 16 kHz mono 16-bit; the extension of the file says whether that is WAV or FLAC.

    Raises:
        AudioError: not audio, empty, not finite, too long or silent throughout.
    """
    samples = decode_audio(source, path.name)
    if not samples.any():
        raise AudioError(path.name, "silent")
    write_audio(path, samples)
    return AudioInfo(len(samples), SAMPLE_RATE, 1)


def store_as_it_is(source: bytes, path: Path) -> AudioInfo:
    """Write a recording bit for bit, once all of it is decoded and proves usable.

    Raises:
        AudioError: see `check_audio`.
    """
    info = check_audio(source)
    with atomic_write(path) as part:
        part.write_bytes(source)
    return info


def store_all(jobs: Iterable[Job], store: Store, num_workers: int) -> Iterator[Recording]:
    """Store recordings in order, with few enough in progress that their bytes fit into memory.

    Args:
        jobs: conversions to run.
        store: a function of a module, so that other processes can import it.
        num_workers: processes that store; 0 stores in this one, as it does recordings that are left in place
            until it pays to start others.

    Raises:
        DataError: a process died.
    """
    jobs = iter(jobs)
    started = time.monotonic()
    for job in jobs:
        is_quick = job.path is None and time.monotonic() < started + _SECONDS_ALONE
        if num_workers and not is_quick:
            jobs = chain([job], jobs)
            break
        yield _store_one(job, store)
    else:
        return
    waiting: deque[Future[list[Recording]]] = deque()
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(num_workers, spawn, initializer=_follow_parent) as pool:
            for batch in _batches(jobs):
                waiting.append(pool.submit(_store_batch, batch, store))
                if len(waiting) >= _BATCHES_PER_WORKER * num_workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that converts was killed, perhaps for want of memory: lower num_workers and run "
            "again to resume"
        ) from error


def _batches(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    batch: list[Job] = []
    num_bytes = 0
    for job in jobs:
        batch.append(job)
        num_bytes += job.member.size
        if len(batch) == _BATCH_MEMBERS or num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _store_batch(batch: Iterable[Job], store: Store) -> list[Recording]:
    return [_store_one(job, store) for job in batch]


def _store_one(job: Job, store: Store) -> Recording:
    recording = job.recording
    if recording.reason:
        return recording
    try:
        if job.path is None:
            return _left_in_place(recording, job.member)
        info = (job.is_there and _header(job.path)) or store(job.member.read(), job.path)
    except AudioError as error:
        return replace(recording, reason=error.reason)
    except DamagedMember as error:
        return replace(recording, reason=f"damaged in the archive: {error}")
    return replace(
        recording,
        num_samples=info.num_samples,
        num_channels=info.num_channels,
        num_bytes=job.path.stat().st_size,
    )


def _left_in_place(recording: Recording, member: Member) -> Recording:
    """The recording with its length and the place of its bytes.

    Raises:
        DataError: the archive is compressed as a whole.
        AudioError: the recording cannot be used.
        DamagedMember: its size or checksum is wrong.
    """
    place = member.place()
    if place is None:
        raise DataError(
            f"{member.name} is in a compressed tar archive, which cannot be read from the middle: set "
            "prepare.audio_format to wav or flac, or decompress the archive (gunzip)"
        )
    encoded = member.read()
    info = probe_audio(encoded, member.name)
    return replace(
        recording,
        num_samples=info.num_samples,
        num_channels=info.num_channels,
        num_bytes=place.num_bytes,
        place=replace(place, crc32=place.crc32 or zlib.crc32(encoded)),
        codec=member.codec,
        first_sample=member.first_sample,
    )


def _header(path: Path) -> AudioInfo | None:
    """Header of the file that an earlier run wrote; None when it was damaged since."""
    try:
        return audio_info(path)
    except AudioError:
        return None


def _follow_parent() -> None:
    """Let a process of the pool end when its parent is killed; Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
