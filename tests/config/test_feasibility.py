"""Feasibility checks name the parameter, from the names in archives alone."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import NOISE_CLIPS, RIRS
from speaker_verification.config.feasibility import (
    Problems,
    list_corpus,
    refuse_impossible,
    refuse_impossible_mirror,
    refuse_missing_augmentation,
    refuse_other_split,
    refuse_trained_validation,
)
from speaker_verification.config.tree import Parameters
from speaker_verification.corpora.mirror import Mirror
from speaker_verification.corpora.subsets import select_subset
from speaker_verification.corpora.validation import hold_out_speakers
from speaker_verification.hooks.checks import ParametersHook
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.pipelines.prepare import create_pipeline
from tests.support.config import CONF, parameters
from tests.support.corpora import write_mirror, zipped

STAGES = ("pretrain", "finetune", "lmft", "evaluate")
MINI: dict[str, Any] = {
    "prepare": {"validation_speakers": 3, "trial_lists": ["vox1_o"]},
    "score": {"top_n": 10},
}


def possible(**changes: Any) -> Parameters:
    given: dict[str, Any] = {
        name: {**MINI.get(name, {}), **values} if isinstance(values, dict) else values
        for name, values in changes.items()
    }
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
    utterances, trials = list_corpus(Mirror(mirror), possible().prepare, AugmentationSettings(), Problems())
    assert utterances is not None
    return utterances, trials


def test_archives_are_listed_without_being_read(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    utterances, trials = corpus
    assert utterances["subset"].value_counts().to_dict() == {
        "vox1-dev": 9, "vox1-test": 6, "vox2-dev": 36, "vox2-test": 6,
    }  # fmt: skip
    assert utterances["utterance_id"].iloc[-1] == "id40001/s/2.wav"
    assert len(trials) == 2


def test_two_corpora_with_a_speaker_of_one_name_are_refused(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    shutil.copytree(mirror, folder)
    for archive, member in (
        ("vox2_test_aac.zip", "aac/84/s/1.m4a"),
        ("dev-clean.tar.gz", "LibriSpeech/dev-clean/84/121/84-121-0000.flac"),
    ):
        with zipfile.ZipFile(folder / archive, "w") as file:
            file.writestr(member, b"")
    prepare = {"subsets": ["vox1-test", "vox2-dev", "vox2-test", "librispeech-dev-clean"]}
    with pytest.raises(
        DataError, match="voxceleb and librispeech have 1 speakers of the same name: 84; take one of them"
    ):
        refuse_impossible_mirror(possible(prepare=prepare), Mirror(folder), [])


def test_a_compression_whose_target_comes_too_late_is_refused_before_it_trains(
    corpus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    pruning = {"epochs": 10, "recovery_epochs": 3, "steps_per_epoch": 100}
    refuse_impossible(possible(compress={**pruning, "growth_steps": 700}), *corpus, ["compress"])
    with pytest.raises(
        ParameterError, match=r"'compress.growth_steps' is 701: pruning has 700 steps, 7 epochs"
    ):
        refuse_impossible(possible(compress={**pruning, "growth_steps": 701}), *corpus, ["compress"])


def test_what_the_corpus_serves_passes(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    refuse_impossible(possible(), *corpus, STAGES)
    refuse_impossible(possible(score={"cohort": "utterances", "top_n": 30}), *corpus, STAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 12 - 3 held out = 9 speakers, three classes each in all phases
        (
            {"finetune": {"margin": {"top_k": 27}}},
            r"'finetune.margin.top_k' is 27: .* below the 27 classes",
        ),
        ({"score": {"top_n": 11}}, r"'score.top_n' is 11, .* 12 speakers, 2 .* take 2 to 10"),
        (
            {"score": {"cohort": "utterances", "top_n": 31}},
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
        (
            {"prepare": {"validation_speakers": 11}},
            r"'prepare.validation_speakers' is 11, .* leaves 1 of 12",
        ),
    ],
    ids=["top-k", "cohort", "cohort of utterances", "unique speakers", "batch", "held out"],
)
def test_what_the_corpus_makes_impossible_is_refused(
    corpus: tuple[pd.DataFrame, pd.DataFrame], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        refuse_impossible(possible(**changes), *corpus, STAGES)
    assert "\n" not in str(caught.value)


def test_all_impossible_parameters_are_told_at_once(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    wrong = possible(finetune={"margin": {"top_k": 27}}, score={"top_n": 11})
    with pytest.raises(ParameterError, match=r"2 problems: \(1\) .*finetune.margin.top_k.*\(2\).*top_n"):
        refuse_impossible(wrong, *corpus, STAGES)


def test_trials_over_training_speakers_are_refused_whatever_their_list_is_called(
    corpus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    utterances, trials = corpus
    over_training = trials.assign(test_id="id30000/s/0.wav")
    with pytest.raises(ParameterError, match=r"prepare.training_set = 'voxceleb2-dev' holds 1 speakers"):
        refuse_impossible(possible(), utterances, over_training, STAGES)
    with pytest.raises(ParameterError, match=r"embed.cohort_set = 'voxceleb2-dev' holds 1 speakers"):
        refuse_impossible(possible(), utterances, over_training, ["evaluate"])


def test_calibration_across_sessions_of_speakers_with_one_is_refused(
    corpus: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    utterances, trials = corpus
    across = possible(score={"calibration_sessions": "across"}, embed={"calibration_set": "vox2-test"})
    with pytest.raises(DataError, match="calibration set has 2 speakers, 0 of them with two sessions"):
        refuse_impossible(across, utterances.assign(session_id="s"), trials, STAGES)
    by_recording = utterances.assign(session_id=utterances["utterance_id"])
    refuse_impossible(across, by_recording, trials, STAGES)


def test_lora_without_its_package_is_refused_for_the_phases_that_are_going_to_run(
    corpus: tuple[pd.DataFrame, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speaker_verification.models.encoders.lora.find_spec", lambda _: None)
    wanted = possible(pretrain={"lora": {"rank": 8}})
    refuse_impossible(wanted, *corpus, ("finetune", "lmft"))
    with pytest.raises(ParameterError, match=r"'pretrain.lora.rank' is 8, .*speaker-verification\[lora\]"):
        refuse_impossible(wanted, *corpus, STAGES)


def test_only_what_is_going_to_run_is_looked_at(corpus: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    refuse_impossible(possible(score={"top_n": 100}), *corpus, ["pretrain"])
    refuse_impossible(possible(pretrain={"margin": {"top_k": 27}}), *corpus, ["finetune", "evaluate"])
    refuse_impossible(possible(lmft={"margin": {"top_k": 27}, "skip": True}), *corpus, STAGES)


def test_trials_of_recordings_that_no_archive_holds_are_told_at_once(mirror: Path) -> None:
    trials = mirror / "veri_test.txt"
    trials.write_text("0 id20000/s/0.wav id29999/s/0.wav\n")
    with pytest.raises(DataError, match=r"vox1_o_original name 1 utterances .*id29999"):
        refuse_impossible_mirror(possible(prepare={"trial_lists": ["vox1_o_original"]}), Mirror(mirror), [])


def broken_mirror(folder: Path) -> Path:
    """A mirror in which much is wrong that names alone tell."""
    write_mirror(folder)
    (folder / "MD5SUMS").unlink()
    (folder / "vox1_test_wav.zip").write_bytes(
        zipped({f"wav/{name}.wav": b"" for name in ("id10270/1", "id10270/2", "id10270/a/1", "id10271/a/1")})
    )
    (folder / "vox2_test_aac.zip").write_bytes(
        zipped({"aac/id09001/a/1.m4a": b"", "aac\\id09001\\a\\1.M4A": b"", "aac/id00012/a/00001.m4a": b""})
    )
    (folder / "rirs_noises.zip").write_bytes(zipped({"RIRS_NOISES/simulated_rirs/a/b/c.wav": b""}))
    (folder / "veri_test2.txt").write_text("1 id10270/a/1.wav id10270/a/1.wav\n2 x y\n")
    (folder / "mine.txt").write_text("target id10270/a/1.wav id10271/a/1.wav\n")
    return folder


def run_prepare(hook: ParametersHook, folder: Path, mirror: Path) -> None:
    """Run the prepare pipeline alone, with the hook's checks."""
    folders = ("mirror_folder", "audio_folder", "augmentation_folder")
    for name in folders:
        (folder / name).mkdir()
    assert hook._parameters is not None
    prepare = hook._parameters.prepare.model_copy(update={"mirror": str(mirror)})
    inputs = {"params:prepare": prepare, "params:augmentation": AugmentationSettings()}
    inputs |= {name: folder / name for name in folders}
    catalog = DataCatalog({name: MemoryDataset(value, "assign") for name, value in inputs.items()})
    hooks = _create_hook_manager()
    hooks.register(hook)
    pipeline = create_pipeline()
    hook.before_pipeline_run(pipeline, catalog)
    SequentialRunner().run(pipeline, catalog, hooks)


def prepare_alone(folder: Path, mirror: Path, **prepare: Any) -> None:
    changes = {"max_rejected_fraction": 0.1, "verify_checksums": False, "num_workers": 0, **prepare}
    hook = ParametersHook()
    hook._parameters = possible(prepare=changes)
    run_prepare(hook, folder, mirror)


def test_all_that_listings_tell_is_told_at_once_before_the_first_conversion_under_prepare_alone(
    tmp_path: Path,
) -> None:
    mirror = broken_mirror(tmp_path / "mirror")
    with pytest.raises(DataError) as caught:
        prepare_alone(tmp_path, mirror, other_trial_lists={"mine": "mine.txt"}, validation_speakers=3)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "6 problems: (1) vox1-test (corpus voxceleb): 2 recordings of vox1_test_wav.zip are not wav/SPEAKER/",
        ": 'wav/id10270/1.wav', 'wav/id10270/2.wav';",
        "(2) vox2-test: 1 of 3 files cannot be used",
        "id09001/a/1.wav (duplicate of another member of the archive)",
        "rirs_noises.zip: lacks RIRS_NOISES/real_rirs_isotropic_noises/rir_list",
        "1 utterances are in several archives (vox2-dev, vox2-test): id00012/a/00001.wav; take one",
        "veri_test2.txt, line 2: '2 x y' is not 'LABEL",
        "mine.txt, line 1: 'target id10270/a/1.wav id10271/a/1.wav' is not 'LABEL",
        "parameter 'prepare.validation_speakers' is 3, which leaves 1 of 4 speakers",
    ):
        assert part in message, part
    assert not list((tmp_path / "audio_folder").iterdir())
    assert not list((tmp_path / "augmentation_folder").iterdir())


def test_what_listings_allow_is_prepared_as_before(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    prepare_alone(tmp_path, mirror, validation_speakers=2)
    assert len(list((tmp_path / "audio_folder").rglob("*.wav"))) == 4 + 4 + 8 + 2


def test_an_archive_that_cannot_be_listed_does_not_hide_the_others_mistakes(tmp_path: Path) -> None:
    mirror = broken_mirror(tmp_path / "mirror")
    (mirror / "vox1_test_wav.zip").write_bytes(b"<html>")
    (mirror / "vox2_test_aac.zip").write_bytes(zipped({"aac/words.txt": b""}))
    message = (
        r"3 problems: .*not a whole zip or tar archive.*vox2_test_aac\.zip: holds no recording.*rir_list"
    )
    with pytest.raises(DataError, match=message):
        prepare_alone(tmp_path, mirror)


def test_a_device_that_is_not_here_is_refused_where_one_is_needed_and_not_elsewhere() -> None:
    hook = ParametersHook()
    hook._parameters = possible(device="cuda:998")
    pipelines = register_pipelines()
    for name in ("pretrain", "finetune", "lmft", "embed", "score", "__default__"):
        with pytest.raises(
            ParameterError, match=r"parameter 'device' is 'cuda:998', but this machine has .*; use auto"
        ):
            hook.before_pipeline_run(pipelines[name], DataCatalog())
    for name in ("download", "prepare", "report", "export", "measure"):
        hook.before_pipeline_run(pipelines[name], DataCatalog())


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
        ({"kinds": {"babble": 0, "television": 0, "music": 0}}, "rirs'"),
        ({"kinds": {"noise": 0, "music": 0, "babble": 0, "television": 0}}, "rirs'"),
    ],
)
def test_augmentation_with_what_was_not_prepared_is_refused(augmentation: dict[str, Any], table: str) -> None:
    clips = NOISE_CLIPS.conform(
        pd.DataFrame({"clip_id": ["n"], "kind": "noise", "path": "n", "num_samples": 9, "num_channels": 1})
    )
    message = rf"^table '{table}.* augmentation\.probability = 0\.6 .* run --pipeline=prepare, or set [^\n]*$"
    with pytest.raises(DataError, match=message):
        refuse_missing_augmentation(possible(augmentation=augmentation), STAGES, clips, RIRS.empty())


@pytest.mark.parametrize(
    "changes",
    [{"augmentation": {"probability": 0}}, {"phase_defaults": {"augment": False}}],
    ids=["no probability", "no phase augments"],
)
def test_without_augmentation_nothing_has_to_be_prepared_for_it(changes: dict[str, Any]) -> None:
    refuse_missing_augmentation(possible(**changes), STAGES, NOISE_CLIPS.empty(), RIRS.empty())


def test_a_start_was_not_trained_on_speakers_who_measure_error_rates(
    corpus: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    training, held_out = hold_out_speakers(select_subset(corpus[0], "voxceleb2-dev"), 3, seed=42)
    record, wanted = tmp_path / "run.json", possible(lmft={"start": str(tmp_path)})
    refuse_impossible(wanted, *corpus, ["lmft"])  # an imported model: nobody knows its speakers
    record.write_text(json.dumps({"speaker_ids": sorted({*training["speaker_id"]})}))
    refuse_impossible(wanted, *corpus, ["lmft"])
    for seen, message in (
        (["id20000", "x"], "was trained on 1 of the 2 speakers of the trials"),
        ([*held_out["speaker_id"], "x"], "was trained on 3 of the 3 speakers held out for validation"),
    ):
        record.write_text(json.dumps({"speaker_ids": seen}))
        with pytest.raises(ParameterError, match=rf"'lmft\.start': '{tmp_path}' {message}"):
            refuse_impossible(wanted, *corpus, ["lmft"])
        allowed = possible(lmft={"start": str(tmp_path)}, prepare={"allow_seen_speakers": True})
        refuse_impossible(allowed, *corpus, ["lmft"])
