"""Parameters of data preparation."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from speaker_verification.audio.format import CorpusFormat
from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import ListName, LocalPath, NumberOrShare, Settings
from speaker_verification.corpora.corpus import OwnList, PublishedList
from speaker_verification.corpora.download.addresses import FolderOrAddress
from speaker_verification.corpora.own_corpora import OwnCorpus, OwnCorpusSettings, describe_own_corpora
from speaker_verification.corpora.registry import (
    add_corpus,
    subsets,
    trial_lists,
    unknown_name,
    use_own_corpora,
)
from speaker_verification.corpora.subsets import refuse_tested_subsets, subsets_of


def _known_subset(name: str) -> str:
    if name not in subsets():
        raise ParameterError(unknown_name("subset", name, subsets()))
    return name


def _known_list(name: str) -> str:
    if name not in trial_lists():
        raise ParameterError(unknown_name("trial list", name, trial_lists()))
    return name


def _known_corpus(name: str) -> str:
    add_corpus(name)
    return name


SubsetName = Annotated[str, AfterValidator(_known_subset)]
TrialListName = Annotated[str, AfterValidator(_known_list)]
CorpusName = Annotated[str, AfterValidator(_known_corpus)]
TAKEN_LIST_NAMES = ("validation", "last")  # values of `rank_by`
OWN_NAME = r"[A-Za-z][A-Za-z0-9_]*"
Speakers = Annotated[int, Field(ge=2, le=250)]
ChannelKind = Literal["microphone", "telephone", "mixed"]


class SyntheticSettings(Settings):
    """Size of a synthetic mirror; the smallest one still has everything that VoxCeleb has."""

    vox1_dev_speakers: Speakers = 8
    """Speakers of the synthetic vox1-dev."""
    vox1_test_speakers: Speakers = 12
    """Speakers of the synthetic vox1-test."""
    vox2_dev_speakers: Speakers = 48
    """Speakers of the synthetic vox2-dev."""
    vox2_test_speakers: Speakers = 6
    """Speakers of the synthetic vox2-test."""
    training_utterances: int = Field(10, ge=2, le=500)
    """Mean number of utterances of a VoxCeleb2 speaker; it varies by up to a fifth."""
    test_utterances: int = Field(8, ge=2, le=500)
    """Utterances of a VoxCeleb1 speaker."""
    sessions: int = Field(2, ge=2, le=50)
    """Sessions of a speaker, each in a room of its own."""
    training_channels: ChannelKind | None = None
    """Channel of each session of a VoxCeleb2 speaker, drawn anew; null: none."""
    test_channels: ChannelKind | None = None
    """Channel of each session of a VoxCeleb1 speaker, whose target trials are across sessions; null: none."""
    target_trials: int = Field(300, ge=1)
    """Target trials of each list, as far as the utterances allow."""
    nontarget_trials: int = Field(900, ge=1)
    """Non-target trials of each list, as far as the utterances allow."""
    wrong_labels: int = Field(5, ge=0)
    """Mislabelled trials added to each uncleaned list."""
    noise_clips: int = Field(24, ge=1)
    """Noise clips of the synthetic MUSAN."""
    music_clips: int = Field(12, ge=1)
    """Music clips of the synthetic MUSAN."""
    speech_clips: int = Field(14, ge=1)
    """Speech clips of the synthetic MUSAN."""
    simulated_responses: int = Field(40, ge=1)
    """Simulated RIRs of the synthetic RIRS_NOISES."""
    real_responses: int = Field(8, ge=1)
    """Measured RIRs of the synthetic RIRS_NOISES."""


class DrawnTrials(Settings):
    """Number of trials in a list that is drawn over a subset, as far as its utterances allow."""

    target_trials: int = Field(10_000, ge=1)
    """Target trials, across sessions where a speaker has several."""
    nontarget_trials: int = Field(40_000, ge=1)
    """Non-target trials."""


class PrepareSettings(Settings):
    """Source of the corpora, and the manifests, trials and validation set that are made from them."""

    other_corpora: tuple[CorpusName, ...] = ()  # before the names of its subsets and lists are validated
    """Dotted names of corpora defined outside the package."""
    corpora: dict[str, OwnCorpus] = Field({}, validate_default=True)  # likewise
    """Corpora of your own by name: folder, manifest, or a group with `path`; see docs/own_corpus.md."""
    mirror: FolderOrAddress | None = None
    """Folder, or base URL for `download`, with the corpora's own file names; see docs/corpora.md."""
    shards: LocalPath | None = None
    """Folder that the pipeline `shards` wrote, read instead of the archives of the subsets."""
    synthetic: SyntheticSettings | None = None
    """Size of a synthetic mirror, used where no mirror is set; see conf/demo."""
    seed: int = Field(42, ge=0)
    """Seed of the data: synthetic speech, drawn trial lists and the validation set."""
    verify_checksums: bool = True
    """Compare every archive with the mirror's MD5SUMS, if there is one."""
    subsets: tuple[SubsetName, ...] = ("vox1-dev", "vox1-test", "vox2-dev", "vox2-test")
    """Subsets of corpora to read, each from its archive."""
    trial_lists: tuple[TrialListName, ...] = Field(
        ("vox1_o", "vox1_e", "vox1_h", "vox1_o_original", "vox1_e_original", "vox1_h_original")
    )
    """Trial lists to read (VoxCeleb) or to draw (LibriSpeech)."""
    other_trial_lists: dict[ListName, LocalPath] = Field(default_factory=dict)
    """Further trial lists in VoxCeleb's format: names and files, absolute or in the mirror."""
    drawn_trials: DrawnTrials = DrawnTrials()
    """Size of each drawn trial list, as far as its utterances allow."""
    training_set: str = "voxceleb2-dev"
    """Subset, union of subsets, or several joined by +, to train and validate on."""
    allow_seen_speakers: bool = False
    """Train on speakers of the trials anyway; error rates then mean little."""
    audio_format: CorpusFormat = "wav"
    """Format of the prepared 16 kHz mono audio; FLAC takes 0.6 of the space, as_is writes none."""
    min_duration_seconds: float = Field(0.5, ge=0)
    """Shortest recording in seconds; shorter ones are rejected."""
    max_rejected_fraction: float = Field(0.01, ge=0, le=1)
    """Fraction of rejected files in a subset above which the run stops."""
    num_workers: int = Field(8, ge=0)
    """Processes that convert recordings; 0: the main process."""
    validation_speakers: NumberOrShare = 100
    """Training speakers held out to rank checkpoints: a number from 2, or a share below 1."""
    validation_trials: int = Field(20_000, ge=2)
    """Trials among the validation speakers, half of them target trials."""

    @field_validator("corpora")
    @classmethod
    def _registered(cls, own: dict[str, OwnCorpusSettings]) -> dict[str, OwnCorpusSettings]:
        for name in own:
            if not re.fullmatch(OWN_NAME, name) or name in TAKEN_LIST_NAMES:
                raise ValueError(
                    f"'{name}' is no name for a corpus: give letters, digits and _, a letter first"
                )
        use_own_corpora(describe_own_corpora(own))  # those of settings that were parsed before are forgotten
        return own

    @field_validator("training_set")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        if "corpora" in info.data:  # else these are wrong, which says all
            subsets_of(name)
        return name

    @field_validator("other_trial_lists")
    @classmethod
    def _unlike_the_known(cls, files: dict[str, str]) -> dict[str, str]:
        taken = [name for name in files if name in trial_lists() or name in TAKEN_LIST_NAMES]
        if taken:
            raise ValueError(f"{', '.join(taken)} has a meaning of its own: give the list another name")
        return files

    @property
    def own_subsets(self) -> tuple[str, ...]:
        """Names of the subsets of `corpora`."""
        return tuple(subset for name, corpus in self.corpora.items() for subset in corpus.subsets(name))

    @property
    def all_subsets(self) -> tuple[str, ...]:
        """Names of all subsets that are read: those of `subsets`, then those of `corpora`."""
        return tuple(dict.fromkeys((*self.subsets, *self.own_subsets)))

    @property
    def list_names(self) -> tuple[str, ...]:
        """Names of all lists that are evaluated: those of `trial_lists`, of `corpora`, and the others."""
        own = [name for name, corpus in self.corpora.items() if corpus.tests]
        return tuple(dict.fromkeys((*self.trial_lists, *own, *self.other_trial_lists)))

    @property
    def mirrored_subsets(self) -> tuple[SubsetName, ...]:
        """The subsets that are read from the mirror, not from shards and not by manifests."""
        own = self.own_subsets
        return tuple(name for name in self.subsets if name not in own) if self.shards is None else ()

    @property
    def list_files(self) -> dict[str, str]:
        """The files of the lists that are read, by the list's name; a relative one is the mirror's."""
        files = {}
        for name in self.list_names:
            entry = trial_lists().get(name)
            if isinstance(entry, PublishedList):
                files[name] = entry.file.name
            elif isinstance(entry, OwnList):
                files[name] = entry.path
        return {**files, **self.other_trial_lists}

    @model_validator(mode="after")
    def _possible(self) -> PrepareSettings:
        if not self.list_names:
            raise ValueError("trial_lists and other_trial_lists are both empty: name a list to measure")
        for name in self.list_names:
            if name not in self.other_trial_lists:
                self._need(trial_lists()[name].subsets, f"the trial list {name}")
        training = subsets_of(self.training_set)
        self._need(training, f"training_set '{self.training_set}'")
        refuse_tested_subsets("training_set", self.training_set, self.list_names, self.allow_seen_speakers)
        return self

    def _need(self, subsets: tuple[str, ...], reason: str) -> None:
        absent = [subset for subset in subsets if subset not in self.all_subsets]
        if absent:
            raise ValueError(f"{reason} needs {', '.join(absent)}: add it to subsets")
