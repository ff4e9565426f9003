"""Enrolled speakers on disk: their recordings' embeddings, for one verifier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from speaker_verification.common.checksums import sha256_of
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.locks import holding
from speaker_verification.deployment.enrolment_parts import (
    ENROLLED_RECORDINGS,
    RECORDINGS_PER_PART,
    Content,
    Manifest,
    Snapshot,
    Writer,
)
from speaker_verification.deployment.fingerprint import embedding_part
from speaker_verification.scoring.embeddings import mean_of
from speaker_verification.scoring.sides import Lines, SideScorer

LEAST_LENGTH = 1e-6  # below it an embedding has no direction
_WRITING = threading.RLock()  # the folder's lock lets all threads of a process in


@dataclass(frozen=True)
class EnrolledRecording:
    """Recording of an enrolled speaker.

    Attributes:
        path: where it is, for embedding it anew.
        sha256: hexadecimal digest of the file.
        seconds: duration.
    """

    path: str
    sha256: str
    seconds: float

    @classmethod
    def of(cls, path: str | Path, seconds: float) -> EnrolledRecording:
        """A file with its digest."""
        return cls(str(Path(path).expanduser().absolute()), sha256_of(path), seconds)


@dataclass(frozen=True, eq=False)
class Enrolment:
    """New recordings of a speaker.

    Attributes:
        speaker: name.
        embeddings: (R, E) as the model gives them, one of each recording.
        recordings: R recordings.
    """

    speaker: str
    embeddings: npt.ArrayLike
    recordings: Sequence[EnrolledRecording]


@dataclass
class _Kept:
    """Embeddings and rows of the ENROLLED_RECORDINGS schema of a speaker."""

    embeddings: list[np.ndarray] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


class EnrolmentStore:
    """Enrolled speakers of one verifier, in a folder.

    An opened store shows who was enrolled then, and what it changes itself; `refresh` reads again. Any number
    of processes read, one at a time writes. Every change is made as a whole or not at all.

    Attributes:
        folder: of the store.
        snapshot: what is enrolled.
    """

    def __init__(self, folder: Path, scorer: SideScorer | None = None) -> None:
        self.folder = folder
        self.snapshot = Snapshot.read(folder)
        self._scorer = scorer
        self._lines: dict[str, Lines] = {}

    @classmethod
    def create(cls, folder: str | Path, fingerprint: str, scorer: SideScorer) -> EnrolmentStore:
        """Make an empty store.

        Args:
            folder: where nothing is yet, or an empty folder.
            fingerprint: of the verifier.
            scorer: its scoring.

        Raises:
            DataError: there is something already.
            InUseError: another process is making one.
        """
        folder = Path(folder)
        with _writing(folder):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise DataError(f"{folder} is not empty: open the store in it, or take another folder")
            Manifest(fingerprint, scorer.width).write(folder)
        return cls(folder, scorer)

    @classmethod
    def open(
        cls, folder: str | Path, fingerprint: str | None = None, scorer: SideScorer | None = None
    ) -> EnrolmentStore:
        """Open a store.

        Args:
            folder: of the store.
            fingerprint: of the verifier that is used with it; None: to list and remove alone.
            scorer: its scoring, for enrolling and identifying.

        Raises:
            DataError: no store is there, its format is unknown, or it is another verifier's; both
                fingerprints are named.
        """
        store = cls(Path(folder), scorer)
        if fingerprint is not None and store.fingerprint != fingerprint:
            is_same = embedding_part(fingerprint) == embedding_part(store.fingerprint)
            remedy = "update the store, whose embeddings stay" if is_same else "embed the store anew"
            raise DataError(
                f"{folder} belongs to the verifier {store.fingerprint}, not to the verifier {fingerprint}: "
                f"take the former, or {remedy}"
            )
        return store

    def refresh(self) -> None:
        """Read what other processes have changed since."""
        self.snapshot = Snapshot.read(self.folder, self.snapshot)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the verifier that made the embeddings."""
        return self.snapshot.manifest.fingerprint

    @property
    def width(self) -> int:
        """Width E of the embeddings."""
        return self.snapshot.manifest.width

    @property
    def scorer(self) -> SideScorer:
        """Scoring of the verifier.

        Raises:
            ParameterError: the store was opened without.
        """
        if self._scorer is None:
            raise ParameterError(
                f"{self.folder} was opened to list and remove: open it with its verifier's scoring"
            )
        return self._scorer

    def __len__(self) -> int:
        """Number of enrolled speakers."""
        return sum(int(counted.sum()) for counted in self.snapshot.counted)

    def __contains__(self, speaker: str) -> bool:
        return bool(self.snapshot.find([speaker]))

    def embeddings_of(self, speaker: str) -> np.ndarray:
        """Raw embeddings (R, E) of a speaker.

        Raises:
            DataError: not enrolled.
        """
        number, place = self._find([speaker])[speaker]
        return self.snapshot.parts[number].embeddings_at(place)

    def lines(self, snapshot: Snapshot) -> list[Lines]:
        """Log-likelihood ratios of each part's speakers as functions of the cosine, computed once."""
        self._lines = {
            part.folder.name: self._lines.get(part.folder.name) or self.scorer.lines(part.sides)
            for part in snapshot.parts
        }
        return [self._lines[part.folder.name] for part in snapshot.parts]

    def recordings(self) -> pd.DataFrame:
        """Table of the ENROLLED_RECORDINGS schema, by the names of the speakers."""
        try:
            tables = [part.recordings(counted) for part, counted in self.snapshot]
        except FileNotFoundError:  # a writer has replaced the part since
            self.refresh()
            tables = [part.recordings(counted) for part, counted in self.snapshot]
        table = pa.concat_tables([ENROLLED_RECORDINGS.columns.empty_table(), *tables]).to_pandas()
        return table.sort_values("speaker", kind="stable", ignore_index=True)

    def speakers(self) -> pd.DataFrame:
        """Enrolled speakers by name: speaker, num_recordings, seconds in all, enrolled_at (the last time)."""
        by_speaker = self.recordings().groupby("speaker", sort=True)
        return by_speaker.agg(
            num_recordings=("path", "size"), seconds=("seconds", "sum"), enrolled_at=("enrolled_at", "max")
        ).reset_index()

    def add(
        self, speaker: str, embeddings: npt.ArrayLike, recordings: Sequence[EnrolledRecording]
    ) -> tuple[str, ...]:
        """Enrol a speaker, or further recordings of one: `add_all` for one speaker."""
        return self.add_all([Enrolment(speaker, embeddings, recordings)])

    def add_all(self, enrolments: Iterable[Enrolment]) -> tuple[str, ...]:
        """Enrol speakers, or further recordings of them.

        A recording that the speaker has already, by its SHA-256, does not count twice.

        Returns:
            remarks: a line on each recording that was enrolled already, of this speaker or of another.

        Raises:
            DataError: an embedding is not finite, nearly zero or of another width, embeddings and recordings
                differ in number, or a name is empty; it is named, and nothing is enrolled.
            InUseError: another process writes.
        """
        new = [self._checked(enrolment) for enrolment in enrolments]
        with self._changing() as writer:
            kept, remarks = self._without_repeated(
                new, self._earlier({enrolment.speaker for enrolment in new})
            )
            if kept:
                names = [writer.write(content) for content in self._contents(kept)]
                writer.commit([*writer.snapshot.manifest.parts, *names])
                self.snapshot = writer.merge_small_parts()
        return remarks

    def replace(
        self, speaker: str, embeddings: npt.ArrayLike, recordings: Sequence[EnrolledRecording]
    ) -> tuple[str, ...]:
        """Enrol a speaker by these recordings instead of the earlier ones, which are erased.

        Returns:
            remarks: as `add_all`.

        Raises:
            DataError: as `add_all`, or the speaker is not enrolled.
            InUseError: another process writes.
        """
        new = [self._checked(Enrolment(speaker, embeddings, recordings))]
        with self._changing() as writer:
            self._find([speaker])
            kept, remarks = self._without_repeated(new, {})
            names = [writer.write(content) for content in self._contents(kept)]
            writer.commit([*writer.without([speaker]), *names])
            self.snapshot = writer.merge_small_parts()
        return remarks

    def remove(self, *speakers: str) -> None:
        """Remove speakers, of whom nothing is left in the folder; the parts that hold them are written anew.

        Raises:
            DataError: some are not enrolled; none is removed.
            InUseError: another process writes.
        """
        with self._changing() as writer:
            self._find(speakers)
            self.snapshot = writer.commit(writer.without(speakers))

    def compact(self) -> None:
        """Write everything anew, in as few parts as can be.

        Raises:
            InUseError: another process writes.
        """
        with self._changing() as writer:
            self.snapshot = writer.commit(writer.merged(writer.snapshot))

    def update(self, fingerprint: str, scorer: SideScorer) -> None:
        """Score by another verifier of the same embeddings, whose store this is from then on.

        Nothing is embedded, and no recording is read.

        Args:
            fingerprint: of the other verifier, as it was calibrated anew, for example.
            scorer: its scoring.

        Raises:
            DataError: its embeddings are others; the store stays as it was.
            InUseError: another process writes.
        """
        with self._changing() as writer:
            if embedding_part(fingerprint) != embedding_part(self.fingerprint):
                raise DataError(
                    f"{self.folder}: the verifier {fingerprint} embeds recordings in another way than the "
                    f"verifier {self.fingerprint}: embed the store anew"
                )
            names = []
            for part, counted in writer.snapshot:
                kept = _kept_of([part.take(counted)])
                names += [writer.write(content) for content in self._contents(kept, scorer)]
            self.snapshot = writer.commit(names, fingerprint)
            self._scorer = scorer

    def re_embed(
        self,
        embed: Callable[[Sequence[str]], npt.ArrayLike],
        fingerprint: str,
        scorer: SideScorer,
        drop_missing: bool = False,
    ) -> tuple[str, ...]:
        """Embed all recordings with another verifier, whose store this is from then on.

        Args:
            embed: function of the new verifier from paths to embeddings (R, E), called for many at once.
            fingerprint: of the new verifier.
            scorer: its scoring.
            drop_missing: remove recordings whose files are gone or changed, and speakers left without any.

        Returns:
            remarks: a line on each recording that was removed.

        Raises:
            DataError: files are gone or changed and not to be dropped, or as `add_all`; the store stays as
                it was.
            InUseError: another process writes.
        """
        with self._changing() as writer:
            usable, remarks = self._usable_files()
            if remarks and not drop_missing:
                raise DataError(
                    f"{len(remarks)} recordings cannot be embedded anew, the first: {remarks[0]}; put them "
                    "back, or let them be dropped"
                )
            names = []
            for part, counted in writer.snapshot:
                kept: dict[str, _Kept] = {}
                rows = [row for row in part.recordings(counted).to_pylist() if row["path"] in usable]
                embeddings = np.asarray(embed([row["path"] for row in rows])) if rows else ()
                for row, embedding in zip(rows, embeddings, strict=True):
                    of_speaker = kept.setdefault(row["speaker"], _Kept())
                    of_speaker.rows.append(row)
                    of_speaker.embeddings.append(refuse_unusable(embedding, scorer.width, row["path"])[0])
                names += [writer.write(content) for content in self._contents(kept, scorer)]
            self.snapshot = writer.commit(names, fingerprint, scorer.width)
            self._scorer = scorer
        return remarks

    def _usable_files(self) -> tuple[set[str], tuple[str, ...]]:
        """Paths of recordings that are as they were, and a line on each of the others."""
        usable, remarks = set[str](), list[str]()
        table = self.recordings()
        for speaker, path, digest in zip(*(table[n] for n in ("speaker", "path", "sha256")), strict=True):
            if not Path(path).is_file():
                remarks.append(f"speaker '{speaker}': {path} is not there any more")
            elif sha256_of(path) != digest:
                remarks.append(f"speaker '{speaker}': {path} has changed since")
            else:
                usable.add(path)
        return usable, tuple(remarks)

    @contextmanager
    def _changing(self) -> Iterator[Writer]:
        """The only writer of the folder, which has read what is there now."""
        with _writing(self.folder):
            fingerprint = self.fingerprint
            self.refresh()
            if self.fingerprint != fingerprint:
                raise DataError(
                    f"{self.folder} was embedded anew meanwhile: it was of the verifier {fingerprint}, and "
                    f"is of {self.fingerprint}: open it again"
                )
            yield Writer(self.snapshot)

    def _find(self, speakers: Sequence[str]) -> dict[str, tuple[int, int]]:
        found = self.snapshot.find(speakers)
        if missing := [name for name in speakers if name not in found]:
            raise DataError(
                f"{self.folder}: {len(missing)} speakers are not enrolled; the first: "
                f"{', '.join(missing[:10])}"
            )
        return found

    def _checked(self, enrolment: Enrolment) -> Enrolment:
        name = enrolment.speaker
        if not name.strip():
            raise DataError("a speaker's name is empty: give one to each")
        values = refuse_unusable(enrolment.embeddings, self.width, f"speaker '{name}'")
        if len(values) != len(enrolment.recordings):
            raise DataError(
                f"speaker '{name}': {len(values)} embeddings of {len(enrolment.recordings)} recordings: give "
                "as many of each"
            )
        return Enrolment(name, values, enrolment.recordings)

    def _earlier(self, speakers: set[str]) -> dict[str, _Kept]:
        """Enrolled recordings and embeddings of the speakers, by name."""
        held = ((part, counted & part.holds(speakers)) for part, counted in self.snapshot)
        return _kept_of(part.take(holds) for part, holds in held if holds.any())

    def _without_repeated(
        self, new: Sequence[Enrolment], kept: dict[str, _Kept]
    ) -> tuple[dict[str, _Kept], tuple[str, ...]]:
        """Speakers that change, with what is kept of them, and a line on each repeated recording."""
        speakers_of = self._speakers_of_recordings(new)
        changed: dict[str, _Kept] = {}
        remarks = []
        now = datetime.now(timezone.utc)
        for enrolment in new:
            name = enrolment.speaker
            of_speaker = kept.setdefault(name, _Kept())
            own = {row["sha256"] for row in of_speaker.rows}
            for embedding, recording in zip(
                np.asarray(enrolment.embeddings), enrolment.recordings, strict=True
            ):
                known = speakers_of.setdefault(recording.sha256, set())
                if others := sorted(known - {name}):
                    remarks.append(f"speaker '{name}': {recording.path} is a recording of '{others[0]}' too")
                known.add(name)
                if recording.sha256 in own:
                    remarks.append(f"speaker '{name}': {recording.path} is enrolled already, and counts once")
                    continue
                own.add(recording.sha256)
                of_speaker.embeddings.append(embedding)
                of_speaker.rows.append({"speaker": name, **vars(recording), "enrolled_at": now})
                changed[name] = of_speaker
        return changed, tuple(remarks)

    def _speakers_of_recordings(self, new: Sequence[Enrolment]) -> dict[str, set[str]]:
        """Enrolled speakers of the new recordings, by SHA-256."""
        wanted = pa.array([recording.sha256 for each in new for recording in each.recordings], pa.string())
        found: dict[str, set[str]] = {}
        for part, counted in self.snapshot:
            table = part.recordings(counted, ("speaker", "sha256"))
            for row in table.filter(pc.is_in(table["sha256"], value_set=wanted)).to_pylist():
                found.setdefault(row["sha256"], set()).add(row["speaker"])
        return found

    def _contents(self, kept: dict[str, _Kept], scorer: SideScorer | None = None) -> Iterator[Content]:
        """Contents of new parts."""
        waiting: list[str] = []
        num_recordings = 0
        for name, of_speaker in kept.items():
            waiting.append(name)
            num_recordings += len(of_speaker.rows)
            if num_recordings >= RECORDINGS_PER_PART:
                yield _content_of({name: kept[name] for name in waiting}, scorer or self.scorer)
                waiting, num_recordings = [], 0
        if waiting:
            yield _content_of({name: kept[name] for name in waiting}, scorer or self.scorer)


def _kept_of(contents: Iterable[Content]) -> dict[str, _Kept]:
    """Embeddings and recordings of parts' contents, by speaker."""
    kept: dict[str, _Kept] = {}
    for content in contents:
        for row, embedding in zip(content.recordings.to_pylist(), content.embeddings, strict=True):
            of_speaker = kept.setdefault(row["speaker"], _Kept())
            of_speaker.rows.append(row)
            of_speaker.embeddings.append(embedding)
    return kept


def _content_of(kept: dict[str, _Kept], scorer: SideScorer) -> Content:
    counts = np.array([len(of_speaker.rows) for of_speaker in kept.values()])
    models = np.stack([mean_of(np.stack(of_speaker.embeddings)) for of_speaker in kept.values()])
    lengths = np.linalg.norm(models - scorer.cohort.centre, axis=1)
    if lengths.min() < LEAST_LENGTH:
        raise DataError(
            f"speaker '{list(kept)[int(lengths.argmin())]}': the mean of the embeddings lies "
            f"{lengths.min():g} from the centre and so has no direction: take other recordings"
        )
    rows = [row for of_speaker in kept.values() for row in of_speaker.rows]
    seconds = np.array([row["seconds"] for row in rows])
    # Of the mean embedding: as of one recording of their mean duration.
    mean_seconds = np.add.reduceat(seconds, np.cumsum(counts) - counts) / counts
    return Content(
        pa.array(list(kept), pa.string()),
        counts,
        scorer.describe(models, mean_seconds),
        np.stack([embedding for of_speaker in kept.values() for embedding in of_speaker.embeddings]),
        pa.Table.from_pylist(rows, schema=ENROLLED_RECORDINGS.columns),
    )


def refuse_unusable(embeddings: npt.ArrayLike, width: int, whose: str) -> np.ndarray:
    """Embeddings as float32 (R, E).

    Args:
        embeddings: (R, E), or (E,) of one recording.
        width: that is needed.
        whose: of the speaker or the recording, for messages.

    Raises:
        DataError: there is none, or one has another width, is not finite or is nearly zero.
    """
    values = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    if values.ndim != 2 or not len(values) or values.shape[1] != width:
        raise DataError(f"{whose}: embeddings of shape {values.shape}, where (recordings, {width}) is needed")
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    usable = np.isfinite(lengths) & (lengths >= LEAST_LENGTH)
    if not usable.all():
        row = int(usable.argmin())
        raise DataError(
            f"{whose}: embedding {row} has length {lengths[row]:g}: its recording cannot be enrolled"
        )
    return values


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Lock of the folder against other writers."""
    with _WRITING, holding([folder], "a change of enrolled speakers", "another store"):
        yield
