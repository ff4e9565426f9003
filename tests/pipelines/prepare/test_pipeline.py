"""The prepare pipeline, run whole on tiny corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from speaker_verification.corpora import synthetic
from speaker_verification.corpora.trial_lists import PUBLISHED_LISTS
from speaker_verification.errors import DataError, ParameterError
from speaker_verification.pipelines.prepare import create_pipeline
from speaker_verification.pipelines.prepare.nodes import provide_mirror
from speaker_verification.tables import SCHEMAS
from tests.corpora.builders import TINY, write_mirror

CONF = Path(__file__).parents[3] / "conf" / "base"
SMALL = {"num_workers": 0, "validation_speakers": 2, "validation_trials": 4}


def run(folder: Path, prepare: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {"params:prepare": prepare, "params:seed": 7}
    for name in ("mirror_folder", "audio_folder", "augmentation_folder"):
        (folder / name).mkdir()
        data[name] = folder / name
    pipeline = create_pipeline()
    for node in pipeline.nodes:
        data |= node.run({name: data[name] for name in node.inputs})
    return {name: data[name] for name in pipeline.all_outputs()}


def test_a_mirror_becomes_manifests_trials_and_catalogs(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    tables = run(tmp_path, {"mirror": str(mirror), **SMALL})
    assert tables.pop("mirror") == str(mirror)
    entries = yaml.safe_load((CONF / "catalog_prepare.yml").read_text())
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
    assert len(tables["room_responses"]) == 2


def test_archives_that_no_parameter_asks_for_may_be_absent(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    for path in [*mirror.glob("vox1_dev*"), mirror / "vox2_test_aac.zip", mirror / "list_test_all.txt"]:
        path.unlink()
    (mirror / "MD5SUMS").unlink()
    chosen = {"subsets": ["vox1-test", "vox2-dev"], "trial_lists": ["vox1_o"]}
    tables = run(tmp_path, {"mirror": str(mirror), **chosen, **SMALL})
    assert set(tables["utterances"]["subset"]) == {"vox1-test", "vox2-dev"}
    assert len(tables["trials"]) == 2


def test_nothing_is_converted_when_a_file_is_missing(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    (mirror / "musan.tar.gz").unlink()
    with pytest.raises(DataError, match=r"lacks musan\.tar\.gz"):
        run(tmp_path, {"mirror": str(mirror), **SMALL})
    assert not list((tmp_path / "audio_folder").iterdir())


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


def test_a_list_of_the_user_s_own_that_is_not_there_is_named_before_anything_long(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    prepare = {"mirror": str(mirror), "other_trial_lists": {"mine": "mine.txt"}, **SMALL}
    with pytest.raises(DataError, match=r"lacks mine\.txt"):
        provide_mirror(prepare, tmp_path, seed=0)


def test_without_a_mirror_the_user_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"no mirror: set prepare\.mirror .* run first: kedro run --pipeline=download$"
    ):
        provide_mirror({}, tmp_path, seed=0)


def test_what_was_downloaded_is_taken_without_asking_any_host(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/DIR/"
    folder = write_mirror(tmp_path / "mirror")
    for prepare in ({"mirror": address}, {"mirror": address, "synthetic": {}}, {}):
        assert provide_mirror(prepare, folder, seed=0) == str(folder)
    (folder / "musan.tar.gz").unlink()
    command = rf"run first: kedro run --pipeline=download --params=prepare\.mirror={address}"
    with pytest.raises(DataError, match=rf"lacks musan\.tar\.gz; {command}"):
        provide_mirror({"mirror": address}, folder, seed=0)


def test_a_synthetic_mirror_is_written_once_for_the_same_settings_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(part: Path, settings: Any, seed: int, num_workers: int) -> None:
        write_mirror(part)
        (part / synthetic.RECORD).write_text(synthetic._record(settings, seed))
        written.append(seed)

    monkeypatch.setattr(synthetic, "_write_mirror", write)
    prepare = {"synthetic": TINY.model_dump(), **SMALL}
    for seed in (1, 1, 2, 1):
        assert provide_mirror(prepare, tmp_path / "mirror", seed) == str(tmp_path / "mirror")
    assert written == [1, 2, 1]
