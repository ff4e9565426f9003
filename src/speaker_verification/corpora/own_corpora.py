"""Corpora of the user's own: settings, ids, speakers held out for the test, and sources of recordings."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BeforeValidator, PlainValidator, model_validator

from speaker_verification.audio.files import AudioError, decode_audio, encode_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.audio.places import Place
from speaker_verification.common.errors import DataError, ParameterError, listed
from speaker_verification.common.settings_base import LocalPath, Settings, number_of, number_or_share
from speaker_verification.common.tables import SPEAKERS
from speaker_verification.corpora.conversion.archives import AUDIO_ENDINGS, FileMember, Member, plain_name
from speaker_verification.corpora.conversion.sources import Source
from speaker_verification.corpora.corpus import Archive, Corpus, DrawnList, Layout, OwnList, Subset
from speaker_verification.corpora.manifests import TOLERANCE_SECONDS, Manifest, read_manifest
from speaker_verification.corpora.random_streams import CorpusStream

UNION = "own"  # set of all own training speakers
DEFAULT_TEST_SHARE = 0.2
ALL = "all"
_PLACE = ["utterance_id", "path", "start", "end"]  # columns that say where an utterance is
_LONGEST_PART = 120  # bytes of a speaker's, a session's or an utterance's name
_LAYOUT = Layout(
    "SPEAKER/SESSION/UTTERANCE.wav", r"(?P<speaker>[^/]+)/(?P<session>[^/]+)/(?P<utterance>[^/]+)\.wav"
)


def _speakers_or_share(value: Any) -> Any:
    if value is None or value == ALL or (value == 0 and value is not False):
        return value
    try:
        return number_or_share(value)
    except ValueError as error:
        raise ValueError(f"{error}, nor 0 or '{ALL}'") from None


class OwnCorpusSettings(Settings):
    """A corpus of the user's own."""

    path: LocalPath
    """Manifest (CSV, TSV, Parquet or JSON lines), Kaldi folder, or folder of recordings."""
    pattern: str | None = None
    """Paths in a folder of recordings, such as {speaker}/{session}/{utterance}.*; null: by their depth."""
    test_speakers: Annotated[int | float | str | None, PlainValidator(_speakers_or_share)] = None
    """Speakers held out for the test: a number, a share, 0 or all; null: a fifth, or those of `trials`."""
    trials: LocalPath | None = None
    """Trial list with the manifest's own names of utterances; null: drawn over the test speakers."""
    same_sex: bool = False
    """Draw non-target trials between speakers of one sex only."""

    @model_validator(mode="after")
    def _possible(self) -> OwnCorpusSettings:
        if self.trials is not None and self.test_speakers not in (None, ALL):
            raise ValueError("trials names the test speakers: leave test_speakers out, or set it to all")
        return self

    @property
    def trains(self) -> bool:
        """Whether it has training speakers."""
        return self.test_speakers != ALL

    @property
    def tests(self) -> bool:
        """Whether it has test speakers."""
        return self.test_speakers != 0

    def subsets(self, name: str) -> tuple[str, ...]:
        """Names of its subsets, by its own name."""
        return (f"{name}-train",) * self.trains + (f"{name}-test",) * self.tests


def _as_group(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


OwnCorpus = Annotated[OwnCorpusSettings, BeforeValidator(_as_group)]


def describe_own_corpora(settings: Mapping[str, OwnCorpusSettings]) -> list[Corpus]:
    """Subsets, trial lists and the union of corpora, by their names; nothing is read yet.

    Args:
        settings: the corpora by name.
    """
    training = tuple(f"{name}-train" for name, corpus in settings.items() if corpus.trains)
    described: list[Corpus] = []
    for name, corpus in settings.items():
        test = f"{name}-test"
        trials = (
            OwnList(test, os.path.abspath(corpus.trials))
            if corpus.trials
            else DrawnList(test, corpus.same_sex)
        )
        described.append(
            Corpus(
                name,
                licence="the user's own",
                layout=_LAYOUT,
                subsets={subset: Subset(Archive(f"manifest of {name}")) for subset in corpus.subsets(name)},
                unions={UNION: training} if training and not described else {},
                trial_lists={name: trials} if corpus.tests else {},
                read_speakers=_read_speakers,
            )
        )
    return described


def own_sources(settings: Mapping[str, OwnCorpusSettings], seed: int) -> dict[str, ManifestSource]:
    """Read the manifests of corpora.

    Args:
        settings: the corpora by name.
        seed: seed of the data, which draws the test speakers.

    Returns:
        Source of each subset.

    Raises:
        DataError: see `read_manifest` and `identify`; or the corpus lacks speakers.
    """
    sources = {}
    for name, corpus in settings.items():
        manifest = read_manifest(corpus.path, corpus.pattern)
        recordings = identify(manifest, name)
        is_test = recordings["speaker_id"].isin(_test_speakers(recordings, name, corpus, seed))
        of_subset = {f"{name}-test": recordings[is_test], f"{name}-train": recordings[~is_test]}
        for subset in corpus.subsets(name):
            sources[subset] = ManifestSource(manifest.source, of_subset[subset].reset_index(drop=True))
    return sources


def identify(manifest: Manifest, name: str) -> pd.DataFrame:
    """Ids of a manifest's recordings, beside its columns.

    An utterance is `NAME-SPEAKER/SESSION/UTTERANCE.wav`. Without a session each recording is one of its own,
    and without a name an utterance has that of its file, with folders in front where others of its speaker
    and session have the same. Characters that ids cannot have become `_`.

    Args:
        manifest: labelled recordings.
        name: name of the corpus.

    Returns:
        The manifest's table with the columns speaker_id, session_id and utterance_id.

    Raises:
        DataError: two speakers, sessions or utterances would have one id.
    """
    table = manifest.recordings
    speaker = _safe(table["speaker"])
    utterance, session = _named_parts(table, speaker)
    recording = _recording_names(table, speaker, session)
    is_segment = (table["start"] > 0) | table["end"].notna()
    shared = table["path"].duplicated(keep=False)
    segment = recording.where(~is_segment, recording + "_" + _milliseconds(table))
    utterance = utterance.where(utterance != "", segment)
    session = session.where(session != "", recording.where(shared, utterance))
    identified = table.assign(
        speaker_id=f"{name}-" + speaker,
        session_id=session,
        utterance_id=f"{name}-" + speaker + "/" + session + "/" + utterance + ".wav",
    )
    _refuse_merged(manifest, "speakers", table["speaker"], identified["speaker_id"])
    sessions = identified["speaker_id"] + "/" + session
    given = table["session"] != ""
    _refuse_merged(manifest, "sessions", table["session"][given], sessions[given])
    _refuse_same_utterance(manifest, identified)
    return identified


def _safe(names: pd.Series) -> pd.Series:
    """Names with `_` for each character that ids cannot have."""
    return names.map({name: _safe_part(name) for name in names.unique()})


def _safe_part(name: str) -> str:
    text = "".join(
        character if character in "_-." or unicodedata.category(character)[0] in "LMN" else "_"
        for character in name
    )
    if text.startswith("."):
        text = f"_{text[1:]}"
    encoded = text.encode()
    if len(encoded) <= _LONGEST_PART:
        return text
    digest = hashlib.blake2b(encoded, digest_size=6).hexdigest()
    return f"{encoded[: _LONGEST_PART - len(digest) - 1].decode(errors='ignore')}_{digest}"


def _without_ending(name: str) -> str:
    stem, _, ending = plain_name(name).rpartition(".")
    return stem if stem and ending in AUDIO_ENDINGS else name


def _named_parts(table: pd.DataFrame, speaker: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Names of utterances and sessions as far as they are given; `SPEAKER/SESSION/UTTERANCE` names both."""
    utterance = table["utterance"].map({name: _without_ending(name) for name in table["utterance"].unique()})
    session = table["session"]
    parts = utterance.str.split("/")
    names_speaker = parts.str[0] == table["speaker"]
    names_session = names_speaker & (parts.map(len) == 3) & (session == "")
    session = session.where(~names_session, parts.str[1])
    utterance = utterance.where(~names_session, parts.str[-1])
    return _safe(utterance), _safe(session)


def _recording_names(table: pd.DataFrame, speaker: pd.Series, session: pd.Series) -> pd.Series:
    """Name of each recording: its file's, with folders below the common one where others have the same."""
    paths = table["path"].unique()
    start = len(os.path.join(_common_folder(paths), ""))
    full = table["path"].map({path: _without_ending(path[start:]) for path in paths})
    stem = full.str.rpartition("/")[2]
    files = pd.DataFrame({"speaker": speaker, "session": session, "stem": stem, "path": table["path"]})
    files = files.drop_duplicates()
    same = files[files.duplicated(["speaker", "session", "stem"], keep=False)]
    return _safe(stem.where(~table["path"].isin(same["path"]), full))


def _common_folder(paths: Iterable[str]) -> str:
    """The deepest folder that holds all of some files."""
    return os.path.commonpath({os.path.dirname(path) for path in paths})


def _milliseconds(table: pd.DataFrame) -> pd.Series:
    """Start and end of each segment in milliseconds, as a part of its name."""
    start = (table["start"] * 1000).round().astype(int).astype(str)
    end = (table["end"].fillna(0) * 1000).round().astype(int).astype(str)
    return start.where(table["end"].isna(), start + "-" + end)


def _refuse_merged(manifest: Manifest, kind: str, names: pd.Series, ids: pd.Series) -> None:
    pairs = pd.DataFrame({"name": names, "id": ids}).drop_duplicates()
    repeated = pairs.duplicated("id", keep=False)
    if repeated.any():
        same = pairs[pairs["id"] == pairs.loc[repeated, "id"].iloc[0]]
        told = listed([f"'{name}'" for name in same["name"]])
        raise DataError(
            f"{manifest.source}: the {kind} {told} ({manifest.lines(map(int, same.index))}) would both be "
            f"{same['id'].iloc[0]}: rename one"
        )


def _refuse_same_utterance(manifest: Manifest, identified: pd.DataFrame) -> None:
    repeated = identified["utterance_id"].duplicated(keep=False).to_numpy()
    if repeated.any():
        first = identified["utterance_id"].iloc[int(repeated.argmax())]
        rows = np.flatnonzero(identified["utterance_id"] == first)
        raise DataError(
            f"{manifest.source}: several recordings would be the utterance {first} ({manifest.lines(rows)}): "
            "give them names of their own, in the column utterance"
        )


def _test_speakers(recordings: pd.DataFrame, name: str, corpus: OwnCorpusSettings, seed: int) -> np.ndarray:
    """Speaker ids that are held out for the test."""
    counts = recordings["speaker_id"].value_counts()
    if corpus.test_speakers == ALL:
        return counts.index.to_numpy()
    if corpus.trials is not None:
        from speaker_verification.corpora.trials.trials import read_trial_list

        trials = read_trial_list(Path(corpus.trials), name)
        ids = names_of_utterances(recordings)
        sides = pd.concat([trials["enroll_id"], trials["test_id"]]).astype(str).unique()
        named = {ids[side] for side in sides if side in ids}
        return recordings.loc[recordings["utterance_id"].isin(named), "speaker_id"].unique()
    if corpus.test_speakers == 0:
        return counts.index[:0].to_numpy()
    asked = DEFAULT_TEST_SHARE if corpus.test_speakers is None else corpus.test_speakers
    assert not isinstance(asked, str)
    number = number_of(asked, len(counts))
    eligible = np.array(sorted(counts.index[counts >= 2]))
    if number > len(eligible) or number >= len(counts):
        raise ParameterError(
            f"parameter 'prepare.corpora.{name}.test_speakers' is {asked:g}, which is {number} speakers, but "
            f"{corpus.path} has {len(counts)} in all, {len(eligible)} of them with two utterances or more"
        )
    rng = np.random.default_rng([seed, CorpusStream.TEST_SPEAKERS])
    return rng.choice(eligible, number, replace=False)


def own_names(sources: Mapping[str, ManifestSource]) -> dict[str, dict[str, str]]:
    """For each corpus with test speakers, the ids of their utterances by the names that trials may call them.

    Args:
        sources: of `own_sources`.
    """
    return {
        subset.removesuffix("-test"): names_of_utterances(source.recordings)
        for subset, source in sources.items()
        if subset.endswith("-test")
    }


def names_of_utterances(recordings: pd.DataFrame) -> dict[str, str]:
    """Utterance ids by all that a trial list may call them, as far as only one is called so.

    These are the ids with and without the corpus's name, names of utterances as the manifest has them, and
    files as they are named in it.

    Args:
        recordings: table as of `identify`.
    """
    ids = recordings["utterance_id"]
    others = recordings["utterance"].map(plain_name), recordings["file"].map(plain_name)
    names = pd.concat([ids, ids.str.partition("-")[2], *others], ignore_index=True)
    called = pd.DataFrame({"name": names, "id": np.tile(ids, 4)}).drop_duplicates()
    called = called[(called["name"] != "") & ~called["name"].duplicated(keep=False)]
    return dict(zip(called["name"], called["id"], strict=True))


def _read_speakers(_: Path, sources: Mapping[str, Source]) -> pd.DataFrame:
    """Genders that the manifests give."""
    tables = [source.recordings for source in sources.values() if isinstance(source, ManifestSource)]
    table = pd.concat(tables)[["speaker_id", "gender"]]
    known = table[table["gender"] != ""].drop_duplicates()
    return known.assign(nationality="")[SPEAKERS.columns.names]


@dataclass(frozen=True, slots=True)
class ListedMember(FileMember):
    """A file that a manifest lists, by the id of its utterance."""

    @property
    def codec(self) -> str:
        return self.path.suffix.removeprefix(".").lower()


@dataclass(frozen=True, slots=True)
class SegmentMember(ListedMember):
    """A segment of a file, read as a WAV file of its own.

    Attributes:
        start: first sample at 16 kHz.
        stop: sample behind the last one; None: the file's end.
    """

    start: int
    stop: int | None

    def read(self) -> bytes:
        samples, _ = _decoded(self.path)
        stop = len(samples) if self.stop is None else self.stop
        if stop > len(samples) + TOLERANCE_SECONDS * SAMPLE_RATE or self.start >= len(samples):
            raise AudioError(
                self.name,
                f"{self.start / SAMPLE_RATE:g} to {stop / SAMPLE_RATE:g} s is outside of {self.path}, "
                f"which is {len(samples) / SAMPLE_RATE:g} s long",
            )
        return encode_audio(samples[self.start : stop], "wav")

    def place(self) -> Place:
        return Place(str(self.path), crc32=_decoded(self.path)[1])

    @property
    def first_sample(self) -> int:
        return self.start


@lru_cache(maxsize=1)
def _decoded(path: Path) -> tuple[npt.NDArray[np.int16], int]:
    """Samples and CRC-32 of the last file that was read: mostly the next segment is of the same one."""
    encoded = path.read_bytes()
    return decode_audio(encoded, path.name), zlib.crc32(encoded)


@dataclass(frozen=True)
class ManifestSource(Source):
    """Recordings that a manifest lists, wherever they are.

    Attributes:
        manifest: its file or folder.
        recordings: table as of `identify`.
    """

    manifest: Path
    recordings: pd.DataFrame = field(repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.manifest)

    @property
    def form(self) -> str:
        table = self.recordings
        return (
            f"{len(table):,} recordings of {table['speaker_id'].nunique():,} speakers in {self.manifest.name}"
        )

    @property
    def root(self) -> Path:
        return Path(_common_folder(self.recordings["path"].unique()))

    def members(self) -> list[Member]:
        table = self.recordings.sort_values(["path", "start"], kind="stable")
        return [self._member(*values) for values in table[_PLACE].itertuples(index=False, name=None)]

    def _member(self, utterance_id: str, path: str, start: float, end: float) -> Member:
        if not start and np.isnan(end):
            return ListedMember(utterance_id, os.path.getsize(path), "", Path(path))
        stop = None if np.isnan(end) else round(end * SAMPLE_RATE)
        num_bytes = 2 * (stop - round(start * SAMPLE_RATE)) if stop else 0
        return SegmentMember(utterance_id, num_bytes, "", Path(path), round(start * SAMPLE_RATE), stop)

    def state(self) -> tuple[str, ...]:
        digest, start = hashlib.blake2b(digest_size=16), len(os.path.join(self.root, ""))
        for name, path, *times in self.recordings[_PLACE].itertuples(index=False, name=None):
            stat = os.stat(path)
            line = f"{name} {path[start:]} {times} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return (f"{self.manifest.name} {len(self.recordings)} {digest.hexdigest()}",)

    def num_bytes(self) -> int:
        return sum(os.path.getsize(path) for path in self.recordings["path"].unique())
