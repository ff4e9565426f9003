"""What a corpus makes impossible is told by a parameter's name, from names alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.corpora.subsets import select_subset
from speaker_verification.corpora.validation import hold_out_speakers
from speaker_verification.errors import DataError, ParameterError
from speaker_verification.feasibility import (
    list_corpus,
    refuse_impossible,
    refuse_missing_augmentation,
    refuse_other_split,
    refuse_trained_validation,
)
from speaker_verification.parameters import Parameters
from speaker_verification.tables import NOISE_CLIPS, ROOM_RESPONSES
from tests.test_recipes import CONF, parameters

STAGES = ("pretrain", "finetune", "lmft", "evaluate")
MINI: dict[str, Any] = {
    "prepare": {"validation_speakers": 3, "trial_lists": ["vox1_o"]},
    "score": {"cohort_size": 10},
}


def possible(**changes: Any) -> Parameters:
    given: dict[str, Any] = {name: {**MINI.get(name, {}), **values} for name, values in changes.items()}
    return Parameters.parse(parameters(CONF, "mini", **{**MINI, **given}), "")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training speakers and 2 test speakers of 3 recordings each, all of them empty files."""
    folder = tmp_path_factory.mktemp("mirror")
    for archive, form, speakers in (
        ("vox1_dev_wav.zip", "wav/id1{:04}/s/{}.wav", range(3)),
        ("vox1_test_wav.zip", "wav/id2{:04}/s/{}.wav", range(2)),
        ("vox2_dev_aac.zip", "dev/aac/id3{:04}/s/{}.m4a", range(12)),
        ("vox2_test_aac.zip", "aac/id4{:04}/s/{}.m4a", range(2)),
    ):
        with zipfile.ZipFile(folder / archive, "w") as file:
            for speaker in speakers:
                for recording in range(3):
                    file.writestr(form.format(speaker, recording), b"")
    (folder / "veri_test2.txt").write_text(
        "1 id20000/s/0.wav id20000/s/1.wav\n0 id20000/s/0.wav id20001/s/0.wav\n"
    )
    return folder


@pytest.fixture(scope="module")
def corpus(mirror: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return list_corpus(str(mirror), possible().prepare)


def test_archives_are_listed_without_being_read(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    utterances, trials = corpus
    assert utterances["subset"].value_counts().to_dict() == {
        "vox1-dev": 9, "vox1-test": 6, "vox2-dev": 36, "vox2-test": 6,
    }  # fmt: skip
    assert utterances["utterance_id"].iloc[-1] == "id40001/s/2.wav"
    assert len(trials) == 2


def test_what_the_corpus_serves_passes(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    refuse_impossible(possible(), *corpus, STAGES)
    refuse_impossible(possible(score={"cohort": "utterances", "cohort_size": 30}), *corpus, STAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 12 - 3 held out = 9 speakers, three classes each in all phases
        (
            {"finetune": {"margin": {"top_k": 27}}},
            r"'finetune.margin.top_k' is 27: .* below the 27 classes of 9",
        ),
        ({"score": {"cohort_size": 11}}, r"'score.cohort_size' is 11, .* 12 speakers, 2 .* take 2 to 10"),
        (
            {"score": {"cohort": "utterances", "cohort_size": 31}},
            r"is 31, .* 36 utterances, 6 .* take 2 to 30",
        ),
        (
            {"pretrain": {"sampling": {"unique_speakers": True}}},
            r"'pretrain.batch_size' is 32: .* not exceed the 9 training speakers",
        ),
        (
            {"lmft": {"steps_per_epoch": None, "accumulation_steps": 2}},
            r"'lmft.batch_size' makes steps of 64 examples, more than the 27 training utterances",
        ),
        ({"prepare": {"validation_speakers": 11}}, r"prepare.validation_speakers = 11 leaves 1 of 12"),
    ],
    ids=["top-k", "cohort", "cohort of utterances", "unique speakers", "batch", "held out"],
)
def test_what_the_corpus_makes_impossible_is_refused(
    corpus: tuple[pd.DataFrame, pd.DataFrame], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        refuse_impossible(possible(**changes), *corpus, STAGES)
    assert "\n" not in str(caught.value)


def test_trials_over_training_speakers_are_refused_whatever_their_list_is_called(
    corpus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    utterances, trials = corpus
    over_training = trials.assign(test_id="id30000/s/0.wav")
    with pytest.raises(ParameterError, match=r"prepare.training_set = 'voxceleb2-dev' holds 1 speakers"):
        refuse_impossible(possible(), utterances, over_training, STAGES)
    with pytest.raises(ParameterError, match=r"embed.cohort_set = 'voxceleb2-dev' holds 1 speakers"):
        refuse_impossible(possible(), utterances, over_training, ["evaluate"])


def test_only_what_is_going_to_run_is_looked_at(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    refuse_impossible(possible(score={"cohort_size": 100}), *corpus, ["pretrain"])
    refuse_impossible(possible(pretrain={"margin": {"top_k": 27}}), *corpus, ["finetune", "evaluate"])
    refuse_impossible(possible(lmft={"margin": {"top_k": 27}, "skip": True}), *corpus, STAGES)


def test_trials_of_recordings_that_no_archive_holds_are_told_at_once(mirror: Path) -> None:
    trials = mirror / "veri_test.txt"
    trials.write_text("0 id20000/s/0.wav id29999/s/0.wav\n")
    with pytest.raises(DataError, match=r"vox1_o_original name 1 utterances .*id29999"):
        list_corpus(str(mirror), possible(prepare={"trial_lists": ["vox1_o_original"]}).prepare)


def test_parameters_of_another_split_than_the_prepared_one_are_refused(
    corpus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    utterances, _ = corpus
    prepare = possible().prepare
    _, validation = hold_out_speakers(select_subset(utterances, "voxceleb2-dev"), 3, seed=42)
    refuse_other_split(prepare, utterances, validation)
    for change in ({"seed": 7}, {"validation_speakers": 4}):
        message = r"^prepare\.seed = .*, prepare\.validation_speakers = .* run --pipeline=prepare$"
        with pytest.raises(ParameterError, match=message):
            refuse_other_split(prepare.model_copy(update=change), utterances, validation)


def test_validation_speakers_that_a_model_was_trained_on_do_not_calibrate_it(tmp_path: Path) -> None:
    validation = pd.DataFrame({"speaker_id": ["a", "a", "b", "c"]})
    refuse_trained_validation(tmp_path, validation)  # an imported model: nobody knows its speakers
    (tmp_path / "run.json").write_text(json.dumps({"speaker_ids": ["x", "y"]}))
    refuse_trained_validation(tmp_path, validation)
    (tmp_path / "run.json").write_text(json.dumps({"speaker_ids": ["b", "c", "y"]}))
    with pytest.raises(ParameterError, match=rf"'validation', but {tmp_path} was trained on 2 of these 3 sp"):
        refuse_trained_validation(tmp_path, validation)


@pytest.mark.parametrize(
    ("augmentation", "table"),
    [
        ({}, "noise_clips': no clip of kind 'music'"),
        ({"kinds": {"babble": 0, "television": 0, "music": 0}}, "room_responses'"),
        ({"kinds": {"noise": 0, "music": 0, "babble": 0, "television": 0}}, "room_responses'"),
    ],
)
def test_augmentation_with_what_was_not_prepared_is_refused(augmentation: dict[str, Any], table: str) -> None:
    clips = NOISE_CLIPS.conform(
        pd.DataFrame({"clip_id": ["n"], "kind": "noise", "path": "n", "num_samples": 9, "num_channels": 1})
    )
    settings = AugmentationSettings.parse(augmentation, "augmentation")
    message = rf"^table '{table}.* augmentation\.probability = 0\.6 .* run --pipeline=prepare, or set [^\n]*$"
    with pytest.raises(DataError, match=message):
        refuse_missing_augmentation(settings, clips, ROOM_RESPONSES.empty())
    off = settings.model_copy(update={"probability": 0.0})
    refuse_missing_augmentation(off, clips[:0], ROOM_RESPONSES.empty())
