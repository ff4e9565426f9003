"""Shards: a corpus in tar archives of some hundred MB each, and the index of their members.

An utterance is two members of a shard, as WebDataset and wespeaker group them: `KEY.spk`, its speaker, and
`KEY.wav`, `.flac`, `.m4a`, ..., its recording byte for byte. The utterances of a subset are in the order of a
hash of their ids, so that a reader that streams meets many speakers, and no shard depends on other subsets.
This project reads recordings by the offsets in the index, in any order.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from speaker_verification.audio.files import SCALE, encode_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.probing import probe_audio
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError, listed
from speaker_verification.common.progress import progress_bar
from speaker_verification.common.settings_base import Settings
from speaker_verification.common.tables import REJECTED_FILES, UTTERANCES
from speaker_verification.corpora.conversion.convert import refuse_short

INDEX = "index.parquet"
_LIST, _SPEAKERS = "shard.list", "utt2spk"  # files that wespeaker takes
_WAV = ".wav"
_WAV_HEADER = 44  # bytes
_SPEAKER_BYTES = 2 * tarfile.BLOCKSIZE  # of the member KEY.spk, with its header
_END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar archive
_READERS = 8  # threads that read recordings ahead
_READ_AHEAD = 64  # recordings
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]


class ShardSettings(Settings):
    """Size of the shards that `shards` writes."""

    megabytes: int = Field(256, ge=1)
    """Size of a shard in MB (1e6 bytes), about; the last one of a subset is smaller."""


@dataclass(frozen=True)
class Shard:
    """A tar archive, and the utterances that it holds.

    Attributes:
        path: the archive.
        rows: rows of the utterances table in the order of the members.
        num_bytes: size of the archive, about.
    """

    path: Path
    rows: Rows
    num_bytes: int

    @property
    def record(self) -> Path:
        """Record of a complete archive: its size, the places of its recordings and a digest of the rows."""
        return self.path.with_suffix(".json")


def utterance_key(utterance_id: str) -> str:
    """Key of an utterance in a shard.

    WebDataset ends a key at the first dot of a member's file name, wespeaker at the last, so that a key has
    none there: it is the id without `.wav`, with those dots as %2E and all per cent signs as %25. The id is
    `urllib.parse.unquote(key) + ".wav"`.

    Raises:
        DataError: the id does not end in `.wav`.
    """
    if not utterance_id.endswith(_WAV):
        raise DataError(f"utterance '{utterance_id}': its id does not end in {_WAV}")
    folder, slash, name = utterance_id.removesuffix(_WAV).replace("%", "%25").rpartition("/")
    return f"{folder}{slash}{name.replace('.', '%2E')}"


def plan_shards(utterances: pd.DataFrame, folder: Path, megabytes: int) -> list[Shard]:
    """Assign utterances to shards, as a function of the table alone.

    Args:
        utterances: UTTERANCES table.
        folder: shards become folder/SUBSET/000000.tar, ...
        megabytes: size of a shard in MB, about.

    Raises:
        DataError: a recording is not there; it is named.
    """
    order = np.fromiter(map(_hash, utterances["utterance_id"]), np.uint64, len(utterances))
    sizes = _expected_bytes(utterances)
    subsets = utterances["subset"].to_numpy(dtype=object)
    shards = []
    for subset in dict.fromkeys(subsets):
        rows = np.flatnonzero(subsets == subset)
        rows = rows[np.argsort(order[rows], kind="stable")]
        ends = np.cumsum(sizes[rows])
        numbers = (ends - sizes[rows]) // (megabytes * 1_000_000)
        starts = np.flatnonzero(np.diff(numbers)) + 1
        for number, part in enumerate(np.split(rows, starts)):
            path = folder / str(subset) / f"{number:06d}.tar"
            shards.append(Shard(path, part, int(sizes[part].sum())))
    return shards


def write_shards(utterances: pd.DataFrame, folder: Path, megabytes: int) -> pd.DataFrame:
    """Write a corpus as shards; those that an earlier run wrote of the same rows are kept.

    A shard appears complete, and has the same bytes whatever was interrupted. Several processes, which must
    share the disk, write every N-th shard each. A subset's folder also receives `shard.list` and `utt2spk`,
    which wespeaker trains from.

    Args:
        utterances: UTTERANCES table.
        folder: shards become folder/SUBSET/000000.tar, ...
        megabytes: size of a shard in MB, about.

    Returns:
        The index: the table, with the places of the recordings in the shards.

    Raises:
        DataError: the table names members of these shards, a recording cannot be read, or the disk is full.
    """
    if utterances["path"].str.startswith(f"{folder}/").any():
        raise DataError(
            f"table 'utterances' reads from the shards in {folder} itself; to write them anew, first prepare "
            "without them"
        )
    shards = plan_shards(utterances, folder, megabytes)
    group = processes()
    own = shards[group.rank :: group.size]
    writer = _Writer(utterances)
    places = [writer.known_places(shard) for shard in own]
    left = [(shard, number) for number, shard in enumerate(own) if places[number] is None]
    _refuse_small_disk(folder, sum(group.gather(sum(shard.num_bytes for shard, _ in left))))
    try:
        with progress_bar("write shards", sum(len(shard.rows) for shard, _ in left)) as advance:
            for shard, number in left:
                places[number] = writer.write(shard)
                advance(len(shard.rows))
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DataError(f"{folder}: the disk is full; make room and run again to resume") from error
    group.meet("shards written")
    everyone = group.gather((places, len(own) - len(left)))
    if group.is_first:
        _write_lists(utterances, shards)
    num_kept = sum(kept for _, kept in everyone)
    logger.info(
        "%s: %d utterances in %d shards%s",
        *(folder, len(utterances), len(shards)),
        f", {num_kept} of them written by an earlier run" if num_kept else "",
    )
    stored = pd.concat([place for places, _ in everyone for place in places]).sort_index()
    return UTTERANCES.conform(utterances.assign(**stored.set_axis(utterances.index)))


def read_shards(
    folder: Path, subsets: Sequence[str], min_duration_seconds: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the utterances of subsets from the index of shards.

    Args:
        folder: folder that `write_shards` wrote, wherever it is now.
        subsets: names of subsets.
        min_duration_seconds: least duration; shorter recordings are rejected.

    Returns:
        The utterances table, one subset after the other, and the table of rejected files.

    Raises:
        DataError: there is no index, it lacks a subset, or a shard is missing.
    """
    file = folder / INDEX
    if not file.is_file():
        raise DataError(f"{file}: no such file; shards are written by: kedro run --pipeline=shards")
    index = UTTERANCES.read(file, folder.absolute())
    present = index["subset"].unique()
    if absent := [name for name in subsets if name not in present]:
        raise DataError(f"{file}: no utterances of {', '.join(absent)}; it has {', '.join(present)}")
    table = index
    if [*present] != [*subsets]:
        table = pd.concat([index[index["subset"] == name] for name in subsets], ignore_index=True)
    if missing := [path for path in table["path"].unique() if not Path(path).is_file()]:
        raise DataError(f"{file}: these shards are missing: {listed(missing)}; copy them again")
    is_short = table["num_samples"] < min_duration_seconds * SAMPLE_RATE
    short = table[is_short].rename(columns={"utterance_id": "file_id"}).assign(reason="")
    rejected = REJECTED_FILES.conform(refuse_short(short, min_duration_seconds)[REJECTED_FILES.columns.names])
    return (table[~is_short].reset_index(drop=True) if len(short) else table), rejected


class _Writer:
    """Writer of the shards of a table."""

    def __init__(self, utterances: pd.DataFrame) -> None:
        self._utterances = utterances
        self._audio = UtteranceAudio(utterances)
        self._speakers, self._codecs = utterances["speaker_id"].array, utterances["codec"].array
        self._first_samples = utterances["first_sample"].to_numpy()

    def known_places(self, shard: Shard) -> pd.DataFrame | None:
        """Places of the recordings, where an earlier run wrote the shard from the same rows."""
        try:
            record = json.loads(shard.record.read_text(encoding="utf-8"))
            num_bytes = shard.path.stat().st_size
        except FileNotFoundError:
            return None
        is_same = record["rows"] == self._digest(shard) and record["num_bytes"] == num_bytes
        return _places(shard, record["recordings"]) if is_same else None

    def write(self, shard: Shard) -> pd.DataFrame:
        """Write a shard and its record.

        Returns:
            The places of the recordings.
        """
        shard.record.unlink(missing_ok=True)
        recordings = []
        with atomic_write(shard.path) as part, part.open("wb") as file:
            for row, (ending, codec, data) in zip(shard.rows, self._recordings(shard.rows), strict=True):
                key = utterance_key(self._audio.utterance_id(row))
                _add(file, f"{key}.spk", self._speakers[row].encode())
                offset = _add(file, f"{key}.{ending}", data)
                recordings.append((offset, len(data), codec, zlib.crc32(data) if codec else 0))
            file.write(_END)
            num_bytes = file.tell()
        record = {"rows": self._digest(shard), "num_bytes": num_bytes, "recordings": recordings}
        with atomic_write(shard.record) as part:
            part.write_text(json.dumps(record), encoding="utf-8")
        return _places(shard, recordings)

    def _recordings(self, rows: Rows) -> Iterator[tuple[str, str, bytes]]:
        """Endings, codecs and bytes of recordings, read ahead."""
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(rows), _READ_AHEAD):
                yield from pool.map(self._recording, rows[start : start + _READ_AHEAD].tolist())

    def _recording(self, row: int) -> tuple[str, str, bytes]:
        codec = str(self._codecs[row])
        if not self._first_samples[row]:
            data = self._audio.place(row).read()
            if not codec:
                return "flac" if data.startswith(b"fLaC") else "wav", codec, data
            info = probe_audio(data, self._audio.utterance_id(row))
            if info.num_samples == self._audio.num_samples[row]:
                return codec, codec, data
        segment = self._audio.read(row) / SCALE
        return "wav", "", encode_audio(segment.astype(np.int16), "wav")

    def _digest(self, shard: Shard) -> str:
        """Digest of the rows of a shard, without the folders of their files, which may be moved."""
        rows = self._utterances.iloc[shard.rows]
        text = rows.assign(path=rows["path"].map(os.path.basename)).to_csv(index=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _places(shard: Shard, recordings: Sequence[Sequence[int | str]]) -> pd.DataFrame:
    table = pd.DataFrame(recordings, columns=["offset", "num_bytes", "codec", "crc32"], index=shard.rows)
    return table.assign(path=str(shard.path), deflated=False, first_sample=0)


def _add(file: BinaryIO, name: str, data: bytes) -> int:
    """Append a member to a tar archive; returns the offset of its first byte."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    file.write(header.tobuf(tarfile.PAX_FORMAT))
    offset = file.tell()
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def _hash(utterance_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "little")


def _expected_bytes(utterances: pd.DataFrame) -> Rows:
    """Bytes of every utterance's members, for recordings that are to be inflated too few.

    Raises:
        DataError: a file is missing; it is named.
    """
    paths, sizes = utterances["path"], utterances["num_bytes"].to_numpy(np.int64, copy=True)
    is_segment = utterances.duplicated(["path", "offset"], keep=False) | (utterances["first_sample"] > 0)
    is_prepared = (utterances["codec"] == "") & paths.str.endswith(_WAV)
    is_wav = (is_segment | is_prepared).to_numpy()
    sizes[is_wav] = _WAV_HEADER + 2 * utterances["num_samples"].to_numpy()[is_wav]
    for row in np.flatnonzero(sizes == 0):
        try:
            sizes[row] = os.path.getsize(paths.iloc[row])
        except OSError as error:
            raise DataError(
                f"{paths.iloc[row]}: {error.strerror}; run first: kedro run --pipeline=prepare"
            ) from error
    return -(-sizes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE + _SPEAKER_BYTES


def _refuse_small_disk(folder: Path, num_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = num_bytes - shutil.disk_usage(folder).free
    if missing > 0:
        raise DataError(
            f"{folder}: the disk lacks {missing} bytes for shards that take {num_bytes}; make room, or set "
            "another data_root"
        )


def _write_lists(utterances: pd.DataFrame, shards: Sequence[Shard]) -> None:
    """Write the lists of every subset's shards and speakers; remove shards that are no longer among them."""
    by_folder: dict[Path, list[Shard]] = {}
    for shard in shards:
        by_folder.setdefault(shard.path.parent, []).append(shard)
    for folder, parts in by_folder.items():
        rows = np.concatenate([part.rows for part in parts])
        ids, speakers = (utterances[name].iloc[rows] for name in ("utterance_id", "speaker_id"))
        lines = (f"{utterance_key(one)} {speaker}\n" for one, speaker in zip(ids, speakers, strict=True))
        with atomic_write(folder / _SPEAKERS) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        paths = {part.path for part in parts}
        with atomic_write(folder / _LIST) as part:
            part.write_text("".join(f"{path}\n" for path in sorted(paths)), encoding="utf-8")
        for path in {*folder.glob("*.tar")} - paths:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink()
