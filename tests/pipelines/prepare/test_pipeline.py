"""The prepare pipeline, run whole on tiny corpora."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import SCHEMAS, UTTERANCES
from speaker_verification.config.feasibility import refuse_missing_augmentation
from speaker_verification.config.phases import PHASES
from speaker_verification.config.tree import Parameters
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.shards import INDEX, ShardSettings
from speaker_verification.corpora.synthetic import mirror as synthetic
from speaker_verification.corpora.voxceleb import PUBLISHED_LISTS
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.pipelines.prepare import create_pipeline
from speaker_verification.pipelines.prepare.nodes import provide_mirror
from speaker_verification.pipelines.shards.nodes import write_corpus_shards
from tests.support.config import CONF, parameters
from tests.support.corpora import (
    TINY,
    noise,
    wav,
    write_cnceleb_mirror,
    write_librispeech_mirror,
    write_mirror,
    write_voxblink2_mirror,
)

PLACE = ["path", "offset", "num_bytes", "deflated", "codec", "first_sample"]
SMALL = {"num_workers": 0, "validation_speakers": 2, "validation_trials": 4}


def run(folder: Path, prepare: dict[str, Any], augmentation: dict[str, Any] | None = None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "params:prepare": PrepareSettings.parse({"seed": 7, **prepare}, "prepare"),
        "params:augmentation": AugmentationSettings.parse(augmentation or {}, "augmentation"),
    }
    for name in ("mirror_folder", "audio_folder", "augmentation_folder"):
        (folder / name).mkdir(exist_ok=True)
        data[name] = folder / name
    pipeline = create_pipeline()
    for node in pipeline.nodes:
        data |= node.run({name: data[name] for name in node.inputs})
    return {name: data[name] for name in pipeline.all_outputs()}


def provided(prepare: dict[str, Any], mirror_folder: Path, audio_folder: Path) -> Path:
    settings = PrepareSettings.parse(prepare, "prepare")
    return provide_mirror(settings, AugmentationSettings(), mirror_folder, audio_folder).folder


@pytest.fixture
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audio folder without recordings."""
    return tmp_path_factory.mktemp("audio")


def test_a_mirror_becomes_manifests_trials_and_catalogs(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    tables = run(tmp_path, {"mirror": str(mirror), **SMALL})
    assert tables.pop("mirror").folder == mirror
    entries = yaml.safe_load((CONF / "base" / "catalog_prepare.yml").read_text())
    for name, table in tables.items():
        schema = SCHEMAS[entries[name]["schema"]]
        pd.testing.assert_frame_equal(table.reset_index(drop=True), schema.conform(table))
    assert len(tables["utterances"]) == 4 + 4 + 8 + 2
    assert tables["trials"].groupby("trial_list", observed=True).size().to_dict() == {
        name: 2 if name.startswith("vox1_o") else 4 for name in PUBLISHED_LISTS
    }
    held_out = set(tables["validation_utterances"]["speaker_id"])
    assert len(held_out) == 2
    assert {*tables["training_utterances"]["speaker_id"]} | held_out == {f"id0001{n}" for n in (2, 3, 4, 5)}
    assert tables["validation_trials"]["label"].tolist() == [1, 1, 0, 0]
    assert len(tables["noise_clips"]) == 3
    assert len(tables["rirs"]) == 2


def test_archives_that_no_parameter_asks_for_may_be_absent(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    for path in [*mirror.glob("vox1_dev*"), mirror / "vox2_test_aac.zip", mirror / "list_test_all.txt"]:
        path.unlink()
    (mirror / "MD5SUMS").unlink()
    chosen = {"subsets": ["vox1-test", "vox2-dev"], "trial_lists": ["vox1_o"]}
    tables = run(tmp_path, {"mirror": str(mirror), **chosen, **SMALL})
    assert set(tables["utterances"]["subset"]) == {"vox1-test", "vox2-dev"}
    assert len(tables["trials"]) == 2


def test_recordings_of_ones_own_need_no_mirror(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(24):
        path = tmp_path / "voices" / f"speaker{number // 4}/day{number % 2}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(noise(number)))
    own = {"corpora": {"mine": str(tmp_path / "voices")}, "subsets": [], "trial_lists": []}
    with caplog.at_level(logging.INFO):
        tables = run(tmp_path, {**own, "training_set": "own", **SMALL}, {"where_missing": "leave_out"})
    assert "lacks musan.tar.gz, rirs_noises.zip" in caplog.text
    assert "mine-train from 16 recordings of 4 speakers in voices" in caplog.text
    speakers = tables["utterances"].groupby("subset")["speaker_id"].nunique()
    assert speakers.to_dict() == {"mine-test": 2, "mine-train": 4}
    assert tables["training_utterances"]["speaker_id"].nunique() == 2
    assert tables["trial_lists"][["trial_list", "num_target", "num_nontarget"]].to_numpy().tolist() == [
        ["mine", 8, 16]
    ]
    assert tables["noise_clips"].empty
    with pytest.raises(ParameterError, match="no mirror"):
        run(tmp_path, {**own, "training_set": "own", **SMALL})


def test_nothing_is_converted_when_a_file_is_missing(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    (mirror / "musan.tar.gz").unlink()
    with pytest.raises(DataError, match=r"lacks musan\.tar\.gz"):
        run(tmp_path, {"mirror": str(mirror), **SMALL})
    assert not list((tmp_path / "audio_folder").iterdir())


@pytest.mark.parametrize(
    ("augmentation", "absent", "num_clips", "num_responses"),
    [
        ({"probability": 0}, ["musan.tar.gz", "rirs_noises.zip"], 0, 0),
        ({"kinds": {"reverb": 0}}, ["rirs_noises.zip"], 3, 0),
        ({"kinds": {"noise": 0, "music": 0, "babble": 0, "television": 0}}, ["musan.tar.gz"], 0, 2),
        ({"simulated_rooms_only": True}, [], 3, 2),
    ],
    ids=["nothing", "no rooms", "rooms alone", "simulated rooms"],
)
def test_archives_that_nothing_is_augmented_with_may_be_absent(
    tmp_path: Path, augmentation: dict[str, Any], absent: list[str], num_clips: int, num_responses: int
) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    for name in absent:
        (mirror / name).unlink()
    tables = run(tmp_path, {"mirror": str(mirror), **SMALL}, augmentation)
    noise_clips, rirs = tables["noise_clips"], tables["rirs"]
    assert (len(noise_clips), len(rirs)) == (num_clips, num_responses)
    pd.testing.assert_frame_equal(noise_clips, SCHEMAS["noise_clips"].conform(noise_clips))
    given = Parameters.parse(parameters(CONF, "mini", augmentation=augmentation), "")
    refuse_missing_augmentation(given, PHASES, noise_clips, rirs)
    for name in absent:
        with pytest.raises(DataError, match=rf"lacks .*{name}"):
            run(tmp_path, {"mirror": str(mirror), **SMALL})


def test_what_the_mirror_tells_of_lists_and_speakers_is_handed_on(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    (mirror / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tX\tf\tIndia\tdev\n"
    )
    own = {"mine": "veri_test.txt", "elsewhere": str(mirror / "veri_test2.txt")}
    tables = run(tmp_path, {"mirror": str(mirror), "other_trial_lists": own, **SMALL})
    assert tables["speakers"].to_numpy().tolist() == [["id10001", "f", "India"]]
    lists = tables["trial_lists"].set_index("trial_list")
    assert lists.index.tolist() == [*PUBLISHED_LISTS, "mine", "elsewhere"]
    assert lists.loc["elsewhere", "file"] == "veri_test2.txt"
    assert (tables["trials"]["trial_list"] == "mine").sum() == 2


def test_a_list_of_the_user_s_own_that_is_not_there_is_named_before_anything_long(
    tmp_path: Path, nothing: Path
) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    prepare = {"mirror": str(mirror), "other_trial_lists": {"mine": "mine.txt"}, **SMALL}
    with pytest.raises(DataError, match=r"lacks mine\.txt"):
        provided(prepare, tmp_path, nothing)


def test_without_a_mirror_the_user_is_told_what_to_set(tmp_path: Path, nothing: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"no mirror: set prepare\.mirror .* run first: kedro run --pipeline=download$"
    ):
        provided({}, tmp_path, nothing)


def test_what_was_downloaded_is_taken_without_asking_any_host(tmp_path: Path, nothing: Path) -> None:
    address = "http://127.0.0.1:9/DIR/"
    folder = write_mirror(tmp_path / "mirror")
    for prepare in ({"mirror": address}, {"mirror": address, "synthetic": {}}, {}):
        assert provided(prepare, folder, nothing) == folder
    (folder / "musan.tar.gz").unlink()
    command = rf"run first: kedro run --pipeline=download --params=prepare\.mirror={address}"
    with pytest.raises(DataError, match=rf"lacks musan\.tar\.gz; {command}"):
        provided({"mirror": address}, folder, nothing)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the synthetic mirrors that were written; noise stands in for speech, which takes long."""
    seeds: list[int] = []

    def write(part: Path, settings: Any, seed: int, num_workers: int) -> None:
        write_mirror(part)
        (part / synthetic.RECORD).write_text(synthetic._record(settings, seed))
        seeds.append(seed)

    monkeypatch.setattr(synthetic, "_write_mirror", write)
    return seeds


SYNTHETIC = {"synthetic": TINY.model_dump(), **SMALL}


def test_a_synthetic_mirror_is_written_once_for_the_same_settings_and_seed(
    tmp_path: Path, written: list[int], nothing: Path
) -> None:
    for seed in (1, 1, 2, 1):
        prepare = SYNTHETIC | {"seed": seed}
        assert provided(prepare, tmp_path / "mirror", nothing) == tmp_path / "mirror"
    assert written == [1, 2, 1]


def test_a_synthetic_mirror_that_recordings_were_taken_from_is_not_replaced(
    tmp_path: Path, written: list[int]
) -> None:
    run(tmp_path, SYNTHETIC)
    mirror = tmp_path / "mirror_folder"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    larger = {"synthetic": TINY.model_copy(update={"noise_clips": 3}).model_dump()}
    for changes, message in (
        ({"seed": 8}, r"of prepare\.seed = 7, asked for is prepare\.seed = 8:"),
        (
            larger,
            r"of prepare\.synthetic\.noise_clips = 2, asked for is prepare\.synthetic\.noise_clips = 3:",
        ),
    ):
        with pytest.raises(
            DataError, match=rf"^{mirror}: .*{message} .*data_root.* remove {mirror}"
        ) as caught:
            run(tmp_path, SYNTHETIC | changes)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(tmp_path, SYNTHETIC)
    assert written == [7]
    (mirror / synthetic.RECORD).write_text("{}")
    with pytest.raises(DataError, match=r"of prepare\.seed = unknown, .*, asked for is prepare\.seed = 7"):
        run(tmp_path, SYNTHETIC)


def test_the_seed_of_the_data_alone_draws_the_corpus_and_its_lists(tmp_path: Path) -> None:
    mirror = write_librispeech_mirror(tmp_path / "mirror")
    subsets = ("librispeech-train-clean-100", "librispeech-dev-clean", "librispeech-test-clean")
    prepare = {
        "mirror": str(mirror),
        "subsets": subsets,
        "trial_lists": ("librispeech_test_clean", "librispeech_dev_clean_same_sex"),
        "drawn_trials": {"target_trials": 4, "nontarget_trials": 4},
        "training_set": subsets[0],
        **SMALL,
    }
    assert all("params:seed" not in node.inputs for node in create_pipeline().nodes)
    one, same, other = (run(tmp_path, prepare | {"seed": seed}) for seed in (1, 1, 2))
    drawn = ("trials", "training_utterances", "validation_utterances", "validation_trials")
    for name in ("utterances", *drawn):
        pd.testing.assert_frame_equal(one[name], same[name])
    pd.testing.assert_frame_equal(one["utterances"], other["utterances"])
    assert not any(one[name].equals(other[name]) for name in drawn)


CNCELEB = {
    "subsets": ["cnceleb1-dev", "cnceleb1-eval", "cnceleb2-dev"],
    "trial_lists": ["cnceleb_e"],
    "training_set": "cnceleb12-dev",
}
NO_AUGMENTATION = {"probability": 0}


@pytest.mark.parametrize("unpacked", [False, True], ids=["archives", "folders"])
def test_cnceleb_becomes_manifests_and_its_official_trials(tmp_path: Path, unpacked: bool) -> None:
    mirror = write_cnceleb_mirror(tmp_path / "mirror", unpacked)
    tables = run(tmp_path, {"mirror": str(mirror), **CNCELEB, **SMALL}, NO_AUGMENTATION)
    utterances = tables["utterances"].set_index("utterance_id")
    assert utterances["subset"].value_counts().to_dict() == {
        "cnceleb1-dev": 4,
        "cnceleb1-eval": 4,
        "cnceleb2-dev": 9,
    }
    row = utterances.loc["cnceleb-id00012/vlog-02/vlog-02-001.wav"]
    assert (row["speaker_id"], row["session_id"]) == ("cnceleb-id00012", "vlog-02")
    first, second = (f"cnceleb-{speaker}" for speaker in ("id00800", "id00999"))
    test = "live_broadcast-03/live_broadcast-03-001.wav"
    assert tables["trials"][["label", "enroll_id", "test_id"]].to_numpy().tolist() == [
        [1, f"{first}/enroll/enroll.wav", f"{first}/{test}"],
        [0, f"{first}/enroll/enroll.wav", f"{second}/{test}"],
        [0, f"{second}/enroll/enroll.wav", f"{first}/{test}"],
        [1, f"{second}/enroll/enroll.wav", f"{second}/{test}"],
    ]
    (described,) = tables["trial_lists"].to_dict("records")
    assert described["file"] == "trials.lst"
    assert (described["official"], described["num_mislabelled"]) == (False, 0)  # 4 trials of 3,484,292
    trained = pd.concat([tables["training_utterances"], tables["validation_utterances"]])
    assert trained["speaker_id"].nunique() == 5


def test_voxblink2_is_what_is_still_there_and_the_rest_is_counted_by_speaker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = write_voxblink2_mirror(write_cnceleb_mirror(tmp_path / "mirror"))
    prepare = {"subsets": [*CNCELEB["subsets"], "voxblink2"], "training_set": "cnceleb12-dev+voxblink2"}
    with caplog.at_level(logging.INFO):
        tables = run(tmp_path, {"mirror": str(mirror), **CNCELEB, **prepare, **SMALL}, NO_AUGMENTATION)
    speech = tables["utterances"].query("subset == 'voxblink2'")
    assert speech["utterance_id"].tolist() == [
        f"voxblink2-{name}/00000.wav"
        for name in (
            "id000000/-a_b",
            "id000000/dQw4w9WgXcQ",
            "id000012/x",
            "id000012/y",
            "id000020/k",
            "id000020/l",
        )
    ]
    assert tables["missing_sessions"].to_dict("list") == {
        "speaker_id": ["voxblink2-id000012", "voxblink2-id123456"],
        "num_listed": [3, 2],
        "num_missing": [1, 2],
    }
    for message in (
        "cnceleb (CC BY-SA 4.0): cnceleb1-dev from cn-celeb_v2.tar.gz; cnceleb1-eval from "
        "cn-celeb_v2.tar.gz; cnceleb2-dev from cn-celeb2_v2.tar.gzaa and 2 more parts",
        "voxblink2 (CC BY-NC-SA 4.0 for the lists; the recordings are their makers'): "
        "voxblink2 from folder voxblink2",
        "voxblink2: 3 of 9 sessions that its list has are missing here, and all of 1 of 4 speakers",
    ):
        assert message in caplog.messages


def test_one_name_in_three_corpora_is_three_speakers_who_never_make_a_wrong_trial(tmp_path: Path) -> None:
    mirror = write_voxblink2_mirror(write_cnceleb_mirror(write_mirror(tmp_path / "mirror")))
    (mirror / "MD5SUMS").unlink()
    prepare = {
        "subsets": [*CNCELEB["subsets"], "vox2-dev", "voxblink2"],
        "training_set": "voxceleb2-dev+cnceleb12-dev+voxblink2",
        "validation_trials": 1_000,
    }
    prepare = {**CNCELEB, **SMALL, "mirror": str(mirror), "validation_speakers": 10} | prepare
    tables = run(tmp_path, prepare, NO_AUGMENTATION)
    held_out, trained = (
        tables[name].set_index("utterance_id")["speaker_id"]
        for name in ("validation_utterances", "training_utterances")
    )
    speakers = {*held_out, *trained}
    assert {"id00012", "cnceleb-id00012", "voxblink2-id000012"} <= speakers
    assert len(speakers) == 4 + 5 + 3
    assert {"cnceleb", "voxblink2"} < {name.partition("-")[0] for name in {*held_out}}
    trials = tables["validation_trials"]
    of_one = trials["enroll_id"].map(held_out).to_numpy() == trials["test_id"].map(held_out).to_numpy()
    assert np.array_equal(of_one, trials["label"] == 1)
    assert (trials["label"] == 0).sum() > 100


@pytest.mark.parametrize("audio_format", ["wav", "flac", "as_is"])
def test_shards_alone_give_the_tables_and_examples_of_the_recordings(
    tmp_path: Path, audio_format: str
) -> None:
    mirror, shards = write_mirror(tmp_path / "mirror"), tmp_path / "shards"
    prepare = {"mirror": str(mirror), "audio_format": audio_format, **SMALL}
    before = run(tmp_path, prepare)
    index = write_corpus_shards(before["utterances"], shards, ShardSettings(megabytes=1))
    UTTERANCES.write(index, shards / INDEX, shards)
    examples = drawn(before["training_utterances"])
    shutil.rmtree(tmp_path / "audio_folder")
    for archive in mirror.glob("vox[12]_*"):
        archive.unlink()
    after = run(tmp_path, prepare | {"shards": str(shards)})
    for name in ("utterances", "training_utterances", "validation_utterances"):
        assert after[name]["path"].str.startswith(f"{shards}/").all()
        pd.testing.assert_frame_equal(before[name].drop(columns=PLACE), after[name].drop(columns=PLACE))
    for name in ("trials", "trial_lists", "validation_trials"):
        pd.testing.assert_frame_equal(before[name], after[name])
    for one, other in zip(examples, drawn(after["training_utterances"]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def drawn(training_utterances: pd.DataFrame) -> list[torch.Tensor]:
    """Waveforms of the training examples of one pass."""
    examples = TrainingExamples(training_utterances, None, 0.3, (1.0, 0.9), seed=1)
    return [examples[0, row, 4800][0] for row in range(len(examples))]
