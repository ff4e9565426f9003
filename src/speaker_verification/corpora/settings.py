"""Parameters of data preparation."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from speaker_verification.audio.format import AudioFormat
from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import LocalPath, Settings
from speaker_verification.corpora.corpus import PublishedList
from speaker_verification.corpora.download.addresses import FolderOrAddress
from speaker_verification.corpora.registry import add_corpus, subsets, trial_lists, unknown_name
from speaker_verification.corpora.subsets import lists_of_speakers_in, subsets_of


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
ListName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Speakers = Annotated[int, Field(ge=2, le=250)]


class SyntheticSettings(Settings):
    """Size of a synthetic mirror; the smallest one still has everything that VoxCeleb has.

    Attributes:
        vox1_dev_speakers, vox1_test_speakers, vox2_dev_speakers, vox2_test_speakers: speakers of each
            split; none occurs in two.
        training_utterances: mean utterances of a speaker of the two VoxCeleb2 splits, in utterances; the
            number itself varies by up to a fifth.
        test_utterances: utterances of a speaker of the two VoxCeleb1 splits.
        sessions: recordings of a speaker, each in a room of its own.
        target_trials, nontarget_trials: trials of each list, as far as the utterances allow.
        wrong_labels: trials that each uncleaned list adds, labelled wrongly.
        noise_clips, music_clips, speech_clips: recordings in the synthetic MUSAN.
        simulated_responses, real_responses: recordings in the synthetic RIRS_NOISES.
    """

    vox1_dev_speakers: Speakers = 8
    vox1_test_speakers: Speakers = 12
    vox2_dev_speakers: Speakers = 48
    vox2_test_speakers: Speakers = 6
    training_utterances: int = Field(10, ge=2, le=500)
    test_utterances: int = Field(8, ge=2, le=500)
    sessions: int = Field(2, ge=2, le=50)
    target_trials: int = Field(300, ge=1)
    nontarget_trials: int = Field(900, ge=1)
    wrong_labels: int = Field(5, ge=0)
    noise_clips: int = Field(24, ge=1)
    music_clips: int = Field(12, ge=1)
    speech_clips: int = Field(14, ge=1)
    simulated_responses: int = Field(40, ge=1)
    real_responses: int = Field(8, ge=1)


class DrawnTrials(Settings):
    """Number of trials in a list that is drawn over a subset, as far as its utterances allow.

    Attributes:
        target_trials: trials of one speaker, across sessions where a speaker has several.
        nontarget_trials: trials of two speakers.
    """

    target_trials: int = Field(10_000, ge=1)
    nontarget_trials: int = Field(40_000, ge=1)


class PrepareSettings(Settings):
    """Source of the corpora, and the manifests, trials and validation set that are made from them.

    Attributes:
        other_corpora: corpora that the project does not have, by dotted names (my_package.MY_CORPUS).
        mirror: folder or base URL with the corpora's own file names.
        synthetic: size of the synthetic mirror, which is made where no mirror is given.
        seed: seed of the synthetic mirror, the drawn trial lists, the validation speakers and their trials.
        verify_checksums: whether to read all archives once and compare them with the mirror's MD5SUMS.
        subsets: archives of recordings to read.
        trial_lists: lists to read (VoxCeleb) or to draw (LibriSpeech).
        other_trial_lists: further lists in VoxCeleb's format, files by name; a relative file is the mirror's.
        drawn_trials: size of the lists that are drawn.
        training_set: named set to train on; validation speakers are held out of it.
        allow_seen_speakers: whether to train on speakers of the trials anyway.
        audio_format: format of converted utterances; FLAC takes 0.6 of the disk space and a little more time.
        min_duration_seconds: least duration; shorter recordings are rejected.
        max_rejected_fraction: fraction of a subset's files, 0 to 1, above which rejected files stop the run.
        num_workers: processes that convert recordings; 0 converts in the main one.
        validation_speakers: speakers held out of training for validation trials.
        validation_trials: trials drawn among them, half of them target trials.
    """

    other_corpora: tuple[CorpusName, ...] = ()  # before the names of its subsets and lists are validated
    mirror: FolderOrAddress | None = None
    synthetic: SyntheticSettings | None = None
    seed: int = Field(42, ge=0)
    verify_checksums: bool = True
    subsets: tuple[SubsetName, ...] = ("vox1-dev", "vox1-test", "vox2-dev", "vox2-test")
    trial_lists: tuple[TrialListName, ...] = Field(
        ("vox1_o", "vox1_e", "vox1_h", "vox1_o_original", "vox1_e_original", "vox1_h_original")
    )
    other_trial_lists: dict[ListName, LocalPath] = Field(default_factory=dict)
    drawn_trials: DrawnTrials = DrawnTrials()
    training_set: str = "voxceleb2-dev"
    allow_seen_speakers: bool = False
    audio_format: AudioFormat = "wav"
    min_duration_seconds: float = Field(0.5, ge=0)
    max_rejected_fraction: float = Field(0.01, ge=0, le=1)
    num_workers: int = Field(8, ge=0)
    validation_speakers: int = Field(100, ge=2)
    validation_trials: int = Field(20_000, ge=2)

    @field_validator("training_set")
    @classmethod
    def _known(cls, name: str) -> str:
        subsets_of(name)
        return name

    @field_validator("other_trial_lists")
    @classmethod
    def _unlike_the_known(cls, files: dict[str, str]) -> dict[str, str]:
        taken = [name for name in files if name in trial_lists() or name in ("validation", "last")]
        if taken:
            raise ValueError(f"{', '.join(taken)} has a meaning of its own: give the list another name")
        return files

    @property
    def list_names(self) -> tuple[str, ...]:
        """Names of all lists that are evaluated."""
        return (*self.trial_lists, *self.other_trial_lists)

    @property
    def list_files(self) -> dict[str, str]:
        """The files of the lists that are read, by the list's name; a relative one is the mirror's."""
        entries = trial_lists()
        published = {
            name: entry.file.name
            for name in self.trial_lists
            if isinstance(entry := entries[name], PublishedList)
        }
        return {**published, **self.other_trial_lists}

    @model_validator(mode="after")
    def _possible(self) -> PrepareSettings:
        if not self.list_names:
            raise ValueError("trial_lists and other_trial_lists are both empty: name a list to measure")
        for name in self.trial_lists:
            self._need(trial_lists()[name].subsets, f"the trial list {name}")
        training = subsets_of(self.training_set)
        self._need(training, f"training_set '{self.training_set}'")
        tested = lists_of_speakers_in(self.training_set, self.trial_lists)
        if tested and not self.allow_seen_speakers:
            raise ValueError(
                f"training_set '{self.training_set}' holds the speakers of {', '.join(tested)}: take another "
                "one, drop these trial_lists, or set allow_seen_speakers"
            )
        return self

    def _need(self, subsets: tuple[str, ...], reason: str) -> None:
        absent = [subset for subset in subsets if subset not in self.subsets]
        if absent:
            raise ValueError(f"{reason} needs {', '.join(absent)}: add it to subsets")
