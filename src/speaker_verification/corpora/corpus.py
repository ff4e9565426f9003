"""Data classes of a corpus: files and their hosts, layout of archives, subsets, trial lists and speakers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from speaker_verification.corpora.conversion.sources import Source


def part_suffix(index: int) -> str:
    """The suffix that `split` gives to a part: aa, ab, ..., az, ba, ..."""
    return chr(ord("a") + index // 26) + chr(ord("a") + index % 26)


@dataclass(frozen=True)
class HostedFile:
    """A file that a mirror holds and that hosts hand out.

    Attributes:
        name: file name in a mirror.
        hosts: base addresses to download it from, the first choice first; `{openslr}/12` is the folder 12
            of the address that `download.hosts.openslr` holds. Empty: the file is copied by hand.
        md5: MD5 of the whole file; None where it is not known.
    """

    name: str
    hosts: tuple[str, ...] = ()
    md5: str | None = None


@dataclass(frozen=True)
class Archive(HostedFile):
    """A zip or tar archive, which may be handed out in parts.

    Attributes:
        part_prefix: name of a part without its suffix (aa, ab, ...); empty for an archive without parts.
        part_md5s: MD5 of every part that the hosts have, in order.
    """

    part_prefix: str = ""
    part_md5s: tuple[str, ...] = ()

    @property
    def md5_by_file(self) -> dict[str, str]:
        """Known MD5 of the archive and of its parts, by file name."""
        parts = {self.part_prefix + part_suffix(index): md5 for index, md5 in enumerate(self.part_md5s)}
        return ({self.name: self.md5} if self.md5 else {}) | parts


@dataclass(frozen=True)
class ArchivedFile(HostedFile):
    """A file that comes with the recordings of a subset; its name is the end of its path there.

    Attributes:
        subset: the subset whose archive or folder holds it.
    """

    subset: str = ""


@dataclass(frozen=True)
class MetadataFile(HostedFile):
    """A file about the speakers of some subsets; `prepare` can do without it.

    Attributes:
        subsets: the subsets that it is about.
    """

    subsets: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """Identity of a recording, parsed from the path of its archive member.

    Attributes:
        file_id: id in tables; SPEAKER/SESSION/UTTERANCE.wav for speech.
        kind: noise, music, ...; empty for speech.
    """

    file_id: str
    kind: str = ""


@dataclass(frozen=True)
class Layout:
    """Member paths of a corpus's archives, and the identities that they give to recordings.

    Paths have slashes, no `./` in front, composed characters and a lower-case ending.

    Attributes:
        expected: the form of a path, for messages.
        pattern: regular expression of a whole path. Groups for speech: speaker, utterance and, where the
            corpus has sessions, session (without it each recording is a session of its own). For other
            recordings: file_id and, where there are several, kind.
        skipped: regular expression of the paths of recordings that belong to something else; None: there
            are none.
        prefix: text in front of every speaker's name, so that no speaker of another corpus has the same.

    Raises:
        ValueError: the pattern lacks these groups.
    """

    expected: str
    pattern: str
    skipped: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        groups = {*self._pattern.groupindex}
        if not (groups >= {"speaker", "utterance"} or "file_id" in groups):
            raise ValueError(f"layout {self.expected}: needs the groups speaker and utterance, or file_id")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def parse(self, member: str) -> Parsed | None:
        """The recording that a member is, by its path; None when the path is not of this layout."""
        found = self._pattern.fullmatch(member)
        if found is None:
            return None
        groups = found.groupdict()
        if "file_id" in groups:
            return Parsed(groups["file_id"], groups.get("kind", ""))
        utterance = groups["utterance"]
        speaker = self.prefix + groups["speaker"]
        return Parsed(f"{speaker}/{groups.get('session', utterance)}/{utterance}.wav")

    def skips(self, member: str) -> bool:
        """Whether a recording belongs to something else than the subset."""
        return self.skipped is not None and re.fullmatch(self.skipped, member) is not None


@dataclass(frozen=True)
class Form:
    """Another form than its archive in which a mirror may hold a subset.

    Attributes:
        path: in the mirror, a folder of files (`dev/aac`), a pattern of tar archives that hold the subset
            together (`voxceleb2-dev-*.tar`), or a list of their paths, one a line (`vox2_dev/shard.list`).
        members: regular expression of the paths that belong to the subset, where others are beside them.
    """

    path: str
    members: str = ""


@dataclass(frozen=True)
class Subset:
    """The recordings of one archive.

    Attributes:
        archive: the archive that holds them.
        num_speakers: published number of speakers; None where it is not known.
        num_utterances: published number of utterances; None where it is not known.
        layout: layout of this archive; None: that of the corpus.
        forms: other forms in which people keep the subset, the likelier first.
    """

    archive: Archive
    num_speakers: int | None = None
    num_utterances: int | None = None
    layout: Layout | None = None
    forms: tuple[Form, ...] = ()


@dataclass(frozen=True)
class PublishedList:
    """A trial list that is handed round as a file.

    Attributes:
        file: the file; copies with other line ends have other MD5s.
        subsets: subsets that its utterances come from.
        num_trials: number of trials of the published file.
        md5: MD5 of the published file; None where it is not known: its number of trials must do.
        columns: fields of a line, in order.
        member_of: path of a recording, which the layout of its subset parses, by its name in the file; None:
            names are utterance ids.
    """

    file: HostedFile
    subsets: tuple[str, ...]
    num_trials: int
    md5: str | None
    columns: tuple[str, ...] = ("label", "enroll_id", "test_id")
    member_of: Callable[[str], str] | None = None


@dataclass(frozen=True)
class DrawnList:
    """A trial list that is drawn from a subset, the same one for the same seed.

    Attributes:
        subset: subset that its utterances come from.
        same_sex: whether non-target trials pair speakers of one sex only, by the speakers table.
    """

    subset: str
    same_sex: bool = False

    @property
    def subsets(self) -> tuple[str, ...]:
        """The same, for lists of all kinds."""
        return (self.subset,)


@dataclass(frozen=True)
class OwnList:
    """A trial list of the user's own over an own corpus, whose names of utterances it may use.

    Attributes:
        subset: subset that its utterances come from.
        path: absolute path of the file.
    """

    subset: str
    path: str

    @property
    def subsets(self) -> tuple[str, ...]:
        """The same, for lists of all kinds."""
        return (self.subset,)


TrialList = PublishedList | DrawnList | OwnList

# folder of the mirror -> sessions that a corpus lists, with columns speaker_id and session_id, or None
SessionReader = Callable[[Path], "pd.DataFrame | None"]
# (folder of the mirror, source of each subset in use) -> rows of the SPEAKERS table, or None
SpeakerReader = Callable[[Path, Mapping[str, "Source"]], "pd.DataFrame | None"]


@dataclass(frozen=True)
class Corpus:
    """All facts of a corpus.

    Attributes:
        name: name in messages.
        licence: licence of the recordings.
        layout: layout of the archives, for subsets that have none of their own.
        subsets: archives of recordings, by the name that `prepare.subsets` takes.
        unions: named sets of subsets to train on or to take as cohort; each subset is one by its own name.
        trial_lists: trial lists by name.
        metadata: files about the speakers.
        read_speakers: reader of the speakers' genders and nationalities; None: nothing is known.
        read_sessions: reader of the sessions that the corpus should have, for one whose recordings vanish
            from where they were; None: no such list.
        content: kind of the recordings; noises and RIRs serve augmentation and have no speakers.
    """

    name: str
    licence: str
    layout: Layout
    subsets: Mapping[str, Subset]
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trial_lists: Mapping[str, TrialList] = field(default_factory=dict)
    metadata: tuple[MetadataFile, ...] = ()
    read_speakers: SpeakerReader | None = None
    read_sessions: SessionReader | None = None
    content: Literal["speech", "noises", "rirs"] = "speech"

    def layout_of(self, subset: str) -> Layout:
        """The layout of a subset's archive."""
        return self.subsets[subset].layout or self.layout

    def files(self) -> Iterator[HostedFile]:
        """All files of the corpus: archives, lists and metadata."""
        yield from (subset.archive for subset in self.subsets.values())
        yield from (entry.file for entry in self.trial_lists.values() if isinstance(entry, PublishedList))
        yield from self.metadata
