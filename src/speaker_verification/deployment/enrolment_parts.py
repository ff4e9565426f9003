"""Files of an enrolment store: parts, and the manifest that names those that count.

A part is a folder that is never changed: embeddings and recordings, and the numbers of each speaker that
scores need. Writers add parts and then replace the manifest, so a killed writer leaves the store as it was.
Of a speaker in several parts the last one counts. Small parts are merged as they become many.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speaker_verification.common.atomic import atomic_write, remove
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import TableSchema
from speaker_verification.scoring.sides import Sides

FORMAT = 1
MANIFEST_FILE = "store.json"
PARTS_FOLDER = "parts"
EMBEDDINGS_FILE = "embeddings.npy"
DIRECTIONS_FILE = "directions.npy"
RECORDINGS_FILE = "recordings.parquet"
SPEAKERS_FILE = "speakers.parquet"
RECORDINGS_PER_PART = 65_536
SMALL_PARTS = 16  # where less than half as many recordings count: when there are more, they are merged

ENROLLED_RECORDINGS = TableSchema(
    "enrolled_recordings",
    pa.schema(
        {
            "speaker": pa.string(),
            "path": pa.string(),
            "sha256": pa.string(),  # of the file
            "seconds": pa.float64(),
            "enrolled_at": pa.timestamp("us", tz="UTC"),
        }
    ),
)

_STATISTICS = ("cohort_mean", "cohort_std")
_QUALITY = ("log_duration", "l1_norm", "l2_norm", "std")

ENROLLED_SPEAKERS = TableSchema(
    "enrolled_speakers",
    pa.schema(
        {
            "speaker": pa.string(),
            "num_recordings": pa.int64(),  # which follow each other in the part
            **dict.fromkeys((*_STATISTICS, *_QUALITY), pa.float64()),
        }
    ),
    key=("speaker",),
)


@dataclass(frozen=True, eq=False)
class Content:
    """Contents of a part: S speakers, and R recordings, those of each speaker in turn.

    Attributes:
        names: string (S,) names of the speakers.
        counts: (S,) number of recordings of each.
        sides: S sides.
        embeddings: float32 (R, E) raw embeddings.
        recordings: R rows of the ENROLLED_RECORDINGS schema.
    """

    names: pa.Array
    counts: np.ndarray
    sides: Sides
    embeddings: np.ndarray
    recordings: pa.Table

    def write(self, folder: Path) -> None:
        """Write a part's folder."""
        numbers = np.column_stack([*self.sides.statistics, self.sides.quality])
        speakers = pd.DataFrame(numbers, columns=[*_STATISTICS, *_QUALITY]).assign(
            speaker=self.names.to_pandas(), num_recordings=self.counts
        )
        with atomic_write(folder) as part:
            part.mkdir()
            np.save(part / EMBEDDINGS_FILE, self.embeddings.astype(np.float32, copy=False))
            np.save(part / DIRECTIONS_FILE, self.sides.directions.astype(np.float32, copy=False))
            pq.write_table(self.recordings, part / RECORDINGS_FILE)
            ENROLLED_SPEAKERS.write(speakers, part / SPEAKERS_FILE)

    @classmethod
    def concat(cls, contents: Sequence[Content]) -> Content:
        """Several contents, one after the other."""
        means, deviations = zip(*(content.sides.statistics for content in contents), strict=True)
        sides = Sides(
            np.concatenate([content.sides.directions for content in contents]),
            (np.concatenate(means), np.concatenate(deviations)),
            np.concatenate([content.sides.quality for content in contents]),
        )
        return cls(
            pa.concat_arrays([content.names for content in contents]),
            np.concatenate([content.counts for content in contents]),
            sides,
            np.concatenate([content.embeddings for content in contents]),
            pa.concat_tables([content.recordings for content in contents]),
        )


@dataclass(frozen=True, eq=False)
class Part:
    """A part on disk, whose arrays are memory maps; attributes as those of `Content`."""

    folder: Path
    names: pa.Array
    counts: np.ndarray
    sides: Sides
    embeddings: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Part:
        """Open a part.

        Raises:
            FileNotFoundError: a file is missing.
            DataError: the files do not fit together.
        """
        try:
            table = pq.read_table(folder / SPEAKERS_FILE, schema=ENROLLED_SPEAKERS.columns)
            directions, embeddings = (
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
                for name in (DIRECTIONS_FILE, EMBEDDINGS_FILE)
            )
        except ValueError as error:
            raise DataError(f"{folder} cannot be read ({error}): restore it, or enrol anew") from error
        counts = table["num_recordings"].to_numpy()
        if len(directions) != len(counts) or len(embeddings) != counts.sum():
            raise DataError(
                f"{folder}: {len(counts)} speakers with {counts.sum()} recordings, but {len(directions)} "
                f"directions and {len(embeddings)} embeddings: enrol anew"
            )
        mean, std = (table[name].to_numpy() for name in _STATISTICS)
        quality = np.column_stack([table[name].to_numpy() for name in _QUALITY])
        names = pa.concat_arrays([pa.array([], pa.string()), *table["speaker"].chunks])
        return cls(folder, names, counts, Sides(directions, (mean, std), quality), embeddings)

    def __len__(self) -> int:
        return len(self.names)

    def embeddings_at(self, place: int) -> np.ndarray:
        """Raw embeddings (R, E) of a speaker."""
        stop = int(self._stops[place])
        return np.asarray(self.embeddings[stop - int(self.counts[place]) : stop])

    @cached_property
    def _stops(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def recordings(
        self, speakers: np.ndarray, columns: Sequence[str] = ENROLLED_RECORDINGS.columns.names
    ) -> pa.Table:
        """Recordings of some of the speakers, bool (S,)."""
        table = pq.read_table(self.folder / RECORDINGS_FILE, columns=list(columns))
        return table.filter(pa.array(np.repeat(speakers, self.counts)))

    def holds(self, speakers: Iterable[str]) -> np.ndarray:
        """Whether each of the part's speakers is among those named, bool (S,)."""
        wanted = pa.array(list(speakers), pa.string())
        return pc.is_in(self.names, value_set=wanted).to_numpy(zero_copy_only=False)

    def take(self, speakers: np.ndarray) -> Content:
        """Contents of some of the speakers, bool (S,)."""
        return Content(
            self.names.filter(pa.array(speakers)),
            self.counts[speakers],
            self.sides.at(speakers),
            self.embeddings[np.repeat(speakers, self.counts)],
            self.recordings(speakers),
        )


@dataclass(frozen=True)
class Manifest:
    """Contents of `store.json`.

    Attributes:
        fingerprint: of the verifier that made the embeddings.
        width: of the embeddings.
        parts: names of the parts that count, in the order of their writing.
    """

    fingerprint: str
    width: int
    parts: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Replace the manifest in a store's folder."""
        values = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "width": self.width,
            "parts": self.parts,
        }
        with atomic_write(folder / MANIFEST_FILE) as file:
            file.write_text(json.dumps(values, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a store.

        Raises:
            DataError: there is none, or its format is unknown.
        """
        file = folder / MANIFEST_FILE
        if not file.is_file():
            raise DataError(f"{folder} is no enrolment store: {MANIFEST_FILE} is missing")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            found = values["format"]
            if found == FORMAT:
                return cls(values["fingerprint"], values["width"], tuple(values["parts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is no manifest of an enrolment store ({error}): restore it") from error
        raise DataError(f"{file} has format {found}, not {FORMAT}: update speaker-verification")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Parts of a store at one moment."""

    folder: Path
    manifest: Manifest
    parts: tuple[Part, ...]

    @classmethod
    def read(cls, folder: Path, earlier: Snapshot | None = None) -> Snapshot:
        """Open a store's parts.

        Args:
            folder: of the store.
            earlier: of the same store, whose parts are open.

        Raises:
            DataError: as `Manifest.read` and `Part.read`, or a part is missing.
        """
        manifest = Manifest.read(folder)
        known = {part.folder.name: part for part in earlier.parts} if earlier else {}
        while True:
            try:
                parts = tuple(
                    known[name] if name in known else Part.read(folder / PARTS_FOLDER / name)
                    for name in manifest.parts
                )
            except FileNotFoundError as error:
                # A writer may just have replaced both.
                before, manifest = manifest, Manifest.read(folder)
                if manifest == before:
                    raise DataError(f"{error.filename} is missing: restore it, or enrol anew") from error
            else:
                return cls(folder, manifest, parts)

    @cached_property
    def counted(self) -> list[np.ndarray]:
        """Speakers of each part that count, bool (S,): those that are in no later part."""
        if not self.parts:
            return []
        codes = pa.concat_arrays([part.names for part in self.parts]).dictionary_encode().indices.to_numpy()
        places = np.arange(len(codes))
        last = np.empty(len(codes), dtype=np.int64)
        last[codes] = places  # of a name in several places the last assignment stays
        return np.split(last[codes] == places, np.cumsum([len(part) for part in self.parts])[:-1])

    def __iter__(self) -> Iterator[tuple[Part, np.ndarray]]:
        """Parts, and which of their speakers count."""
        return zip(self.parts, self.counted, strict=True)

    def find(self, speakers: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Part and place of those of the speakers that are enrolled."""
        wanted = list(speakers)
        return {
            part.names[place].as_py(): (number, int(place))
            for number, (part, counted) in enumerate(self)
            for place in np.flatnonzero(counted & part.holds(wanted))
        }


class Writer:
    """Change of a store: new parts are written at once and count from `commit` on."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def write(self, content: Content) -> str:
        """Write a part; its name."""
        name = uuid.uuid4().hex  # never used twice: readers keep parts open by their names
        content.write(self.snapshot.folder / PARTS_FOLDER / name)
        return name

    def without(self, speakers: Iterable[str]) -> list[str]:
        """Names of the parts, where those that hold some of the speakers are written anew without them."""
        gone, names = list(speakers), []
        for part, counted in self.snapshot:
            holds = part.holds(gone)
            kept = counted & ~holds
            if not holds.any():
                names.append(part.folder.name)
            elif kept.any():
                names.append(self.write(part.take(kept)))
        return names

    def merged(self, parts: Iterable[tuple[Part, np.ndarray]]) -> list[str]:
        """Names of as few new parts as hold the speakers that count of the given parts."""
        names: list[str] = []
        waiting: list[Content] = []
        for part, counted in parts:
            waiting.append(part.take(counted))
            if sum(len(content.embeddings) for content in waiting) >= RECORDINGS_PER_PART:
                names.append(self.write(Content.concat(waiting)))
                waiting = []
        if sum(len(content.counts) for content in waiting):
            names.append(self.write(Content.concat(waiting)))
        return names

    def commit(
        self, names: Sequence[str], fingerprint: str | None = None, width: int | None = None
    ) -> Snapshot:
        """Let the named parts count, and no others."""
        manifest = self.snapshot.manifest
        manifest = replace(
            manifest,
            fingerprint=fingerprint or manifest.fingerprint,
            width=width or manifest.width,
            parts=tuple(names),
        )
        manifest.write(self.snapshot.folder)
        for folder in (self.snapshot.folder / PARTS_FOLDER).glob("*"):
            if folder.name not in names:
                remove(folder)
        self.snapshot = Snapshot.read(self.snapshot.folder, self.snapshot)
        return self.snapshot

    def merge_small_parts(self) -> Snapshot:
        """Merge the parts with few recordings that count where there are many such parts."""
        small = [
            (part, counted)
            for part, counted in self.snapshot
            if part.counts[counted].sum() < RECORDINGS_PER_PART // 2
        ]
        if len(small) <= SMALL_PARTS:
            return self.snapshot
        merged = {part.folder.name for part, _ in small}
        others = [name for name in self.snapshot.manifest.parts if name not in merged]
        return self.commit([*others, *self.merged(small)])
