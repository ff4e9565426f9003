from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError, Version

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import TRIALS, UTTERANCES
from speaker_verification.datasets import (
    ArraysDataset,
    CsvTableDataset,
    EmbeddingStoreDataset,
    FolderDataset,
    HtmlPageDataset,
    JsonDataset,
    ScoreFilesDataset,
    TableDataset,
    TextTableDataset,
)
from speaker_verification.scoring.embeddings import EmbeddingStore

TRIAL = {"trial_list": "vox1_o", "label": 1, "enroll_id": "a/b/1.wav", "test_id": "a/c/2.wav"}
UTTERANCE = {
    "utterance_id": "a/b/1.wav",
    "speaker_id": "a",
    "session_id": "b",
    "subset": "vox1-test",
    "path": "1.wav",
    "num_samples": 16_000,
    "duration_seconds": 1.0,
}


def versioned(kind: type, path: Path, save_version: str | None = None, **options: Any) -> Any:
    return kind(filepath=str(path), version=Version(None, save_version), **options)


def test_the_newest_version_is_loaded_and_an_older_one_on_demand(tmp_path: Path) -> None:
    for version in ("2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z"):
        versioned(JsonDataset, tmp_path / "m.json", version).save({"from": version[:7]})
    assert versioned(JsonDataset, tmp_path / "m.json").load() == {"from": "2026-02"}
    older = JsonDataset(filepath=str(tmp_path / "m.json"), version=Version("2026-01-01T00.00.00.000Z", None))
    assert older.load() == {"from": "2026-01"}


@pytest.mark.parametrize("is_versioned", [True, False])
def test_a_save_that_fails_hides_no_good_one(
    is_versioned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dataset(save_version: str) -> JsonDataset:
        if is_versioned:
            return versioned(JsonDataset, tmp_path / "m.json", save_version)
        return JsonDataset(filepath=str(tmp_path / "m.json"))

    dataset("2026-01-01T00.00.00.000Z").save({"eer": 1.0})

    def killed(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(DatasetError, match="No space left"):
        dataset("2026-02-01T00.00.00.000Z").save({"eer": 2.0})
    assert dataset("2026-03-01T00.00.00.000Z").load() == {"eer": 1.0}
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Out of range float"):
        JsonDataset(filepath=str(tmp_path / "m.json")).save({"eer": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_table_is_checked_on_save_and_on_load(tmp_path: Path) -> None:
    dataset = TableDataset(filepath=str(tmp_path / "trials.parquet"), schema="trials")
    dataset.save(pd.DataFrame([TRIAL])[["test_id", "label", "enroll_id", "trial_list"]])
    assert dataset.load().columns.tolist() == TRIALS.columns.names
    with pytest.raises(DatasetError, match=r"table 'trials': missing columns \['label'\]"):
        dataset.save(pd.DataFrame([TRIAL]).drop(columns="label"))
    pd.DataFrame([TRIAL | {"label": "yes"}]).to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(DatasetError, match=r"trials.parquet.*'label' is not int8"):
        dataset.load()
    with pytest.raises(DatasetError, match="unknown table schema 'tables'"):
        TableDataset(filepath="x", schema="tables")


def test_a_folder_is_moved_into_the_catalog(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "ranking.json").write_text("[1, 2]")
    dataset = versioned(
        FolderDataset, tmp_path / "checkpoint", "2026-01-01T00.00.00.000Z", preview_file="ranking.json"
    )
    assert not dataset.exists()
    dataset.save(work)
    assert not work.exists()
    assert (dataset.load() / "ranking.json").read_text() == "[1, 2]"
    assert json.loads(dataset.preview()) == [1, 2]


def test_a_plain_folder_is_replaced_whole(tmp_path: Path) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "encoder"))
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
        dataset.save(tmp_path / name)
    assert [path.name for path in dataset.load().iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_place_to_work_in_is_made_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        FolderDataset(filepath=str(tmp_path / "a")).load()
    place = FolderDataset(filepath=str(tmp_path / "b"), create=True)
    assert place.exists()
    assert place.load().is_dir()


def test_embeddings_come_back_memory_mapped(tmp_path: Path) -> None:
    store = EmbeddingStore(np.ones((1, 3), dtype=np.float32), UTTERANCES.conform(pd.DataFrame([UTTERANCE])))
    dataset = versioned(EmbeddingStoreDataset, tmp_path / "embeddings")
    dataset.save(store)
    loaded = dataset.load()
    assert isinstance(loaded.embeddings, np.memmap)
    np.testing.assert_array_equal(loaded.embeddings, store.embeddings)
    pd.testing.assert_frame_equal(loaded.utterances, store.utterances)


@pytest.mark.parametrize("root", ["data/demo", "./data/demo", "{project}/data/demo"])
def test_tables_of_a_moved_data_root_name_its_files_and_not_those_of_the_old_place(
    root: str, tmp_path: Path
) -> None:
    def data(project: Path) -> tuple[TableDataset, EmbeddingStoreDataset, str]:
        folder = f"{project}/data/demo"
        options = {"root": root.format(project=project)}
        return (
            TableDataset(filepath=f"{folder}/02/t.parquet", schema="utterances", **options),
            EmbeddingStoreDataset(filepath=f"{folder}/07/embeddings", **options),
            folder,
        )

    table, embeddings, folder = data(tmp_path / "old")
    rows = UTTERANCES.conform(pd.DataFrame([UTTERANCE | {"path": f"{folder}/02/audio/1.wav"}]))
    table.save(rows)
    embeddings.save(EmbeddingStore(np.ones((1, 3), dtype=np.float32), rows))
    assert table.load()["path"].tolist() == embeddings.load().utterances["path"].tolist() == [*rows["path"]]
    (tmp_path / "old").rename(tmp_path / "new")
    table, embeddings, folder = data(tmp_path / "new")
    moved = [f"{tmp_path}/new/data/demo/02/audio/1.wav"]
    assert table.load()["path"].tolist() == embeddings.load().utterances["path"].tolist() == moved


def test_a_copy_whose_table_names_the_originals_files_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("original", "copy"):
        (tmp_path / name / "02/audio").mkdir(parents=True)
        (tmp_path / name / "02/audio/1.wav").touch()
    old = TableDataset(filepath=str(tmp_path / "copy/02/t.parquet"), schema="utterances")
    old.save(pd.DataFrame([UTTERANCE | {"path": str(tmp_path / "original/02/audio/1.wav")}]))
    table = TableDataset(
        filepath=str(tmp_path / "copy/02/t.parquet"), schema="utterances", root=str(tmp_path / "copy")
    )
    assert table.load()["path"].tolist() == [str(tmp_path / "original/02/audio/1.wav")]
    assert len(caplog.records) == 1
    assert f"{tmp_path}/copy/02/t.parquet refers to files of another data root" in caplog.text
    assert "kedro run --pipeline=prepare" in caplog.text
    caplog.clear()
    table.save(pd.DataFrame([UTTERANCE | {"path": "/corpora/1.wav"}]))  # a corpus that lies elsewhere
    assert table.load()["path"].tolist() == ["/corpora/1.wav"]
    assert not caplog.records


def test_previews_show_the_newest_or_nothing(tmp_path: Path) -> None:
    table = TableDataset(filepath=str(tmp_path / "t.parquet"), schema="trials")
    assert table.preview()["data"] == []
    table.save(pd.DataFrame([TRIAL] * 70))
    assert table.preview()["columns"] == ["trial_list", "label", "enroll_id", "test_id"]
    assert len(table.preview()["data"]) == 50
    values = JsonDataset(filepath=str(tmp_path / "m.json"))
    assert values.preview() == ""
    values.save({"a": 1})
    assert json.loads(values.preview()) == {"a": 1}


def test_numbers_of_a_preview_have_four_decimals_or_three_digits(tmp_path: Path) -> None:
    values = JsonDataset(filepath=str(tmp_path / "m.json"))
    values.save({"eer": 8.333333, "rates": [0.00123456, 0.0000123456, 0.0], "count": 12345, "official": True})
    assert json.loads(values.preview()) == {
        "eer": 8.3333,
        "rates": [0.0012, 0.0000123, 0.0],
        "count": 12345,
        "official": True,
    }
    table = CsvTableDataset(filepath=str(tmp_path / "t.csv"))
    table.save(pd.DataFrame({"from": [-math.inf, -1.00004], "num": [1, 2], "rate": [None, 0.123456]}))
    assert table.preview() == {
        "columns": ["from", "num", "rate"],
        "data": [["-inf", 1, ""], [-1.0, 2, 0.1235]],
    }


def test_the_preview_of_a_table_has_its_paths_as_they_are_stored(tmp_path: Path) -> None:
    dataset = TableDataset(filepath=str(tmp_path / "u.parquet"), schema="utterances", root=str(tmp_path))
    dataset.save(pd.DataFrame([UTTERANCE | {"path": str(tmp_path / "audio/a.wav")}]))
    preview = dataset.preview()
    assert preview["data"][0][preview["columns"].index("path")] == "audio/a.wav"


def test_text_tables_are_shown_in_the_columns_of_their_rules(tmp_path: Path) -> None:
    dataset = TextTableDataset(filepath=str(tmp_path / "results.txt"))
    first = "list     EER %\n-------  -----\nvox1_o*   8.33\n"
    second = "list    miss, FA %\n------  ----------\nvox1_o  9.1  0.001\n"
    dataset.save(f"{first}EER: in percent\n\n{second}* not a published list\n")
    assert dataset.preview() == {
        "columns": ["list", "EER %"],
        "data": [
            ["vox1_o*", "8.33"],
            ["EER: in percent"],
            ["list", "miss, FA %"],
            ["vox1_o", "9.1  0.001"],
            ["* not a published list"],
        ],
    }


def test_embeddings_arrays_scores_and_folders_show_what_they_hold(tmp_path: Path) -> None:
    utterances = pd.DataFrame(
        [
            UTTERANCE | {"utterance_id": f"{speaker}/{n}", "speaker_id": speaker, "duration_seconds": 1800.0}
            for speaker, n in (("a", 0), ("a", 1), ("b", 0))
        ]
    )
    store = EmbeddingStoreDataset(filepath=str(tmp_path / "embeddings"))
    store.save(EmbeddingStore(np.ones((3, 8), np.float32), utterances))
    assert store.preview() == {
        "columns": ["subset", "speakers", "utterances", "hours", "embedding_size"],
        "data": [[UTTERANCE["subset"], 2, 3, 1.5, 8]],
    }
    arrays = ArraysDataset(filepath=str(tmp_path / "fitted.npz"))
    arrays.save({"cosine": {}, "plda": {"mean": np.array([[0.5, 1 / 3], [2, 3], [4, 5]])}})
    assert arrays.preview()["data"] == [["plda", "mean", "3, 2", "float64", "0.5, 0.3333, 2.0, 3.0"]]
    scores = ScoreFilesDataset(filepath=str(tmp_path / "scores"))
    trial = {"enroll_id": "a", "test_id": "b", "score": 0.123456, "label": 1}
    scores.save({"vox1_o.cosine": pd.DataFrame([trial] * 9), "vox1_o.qmf": pd.DataFrame([trial])})
    assert scores.preview()["data"] == [
        *[["vox1_o.cosine", "a", "b", 0.1235, 1]] * 5,
        ["vox1_o.qmf", "a", "b", 0.1235, 1],
    ]
    folder = FolderDataset(filepath=str(tmp_path / "scores"))
    assert json.loads(folder.preview()) == ["vox1_o.cosine.txt", "vox1_o.qmf.txt"]


def test_arrays_come_back_exactly_by_group_and_empty_groups_too(tmp_path: Path) -> None:
    left = {"plda": {"transform": np.random.default_rng(0).normal(size=(3, 2)), "flag": np.array(True)}}
    dataset = ArraysDataset(filepath=str(tmp_path / "fitted.npz"))
    dataset.save({"cosine": {}, **left, "qmf": {"names": np.array(["a", "bc"])}})
    loaded = dataset.load()
    assert list(loaded) == ["cosine", "plda", "qmf"]
    assert loaded["cosine"] == {}
    np.testing.assert_array_equal(loaded["plda"]["transform"], left["plda"]["transform"])
    assert bool(loaded["plda"]["flag"])
    assert loaded["qmf"]["names"].tolist() == ["a", "bc"]


def test_arrays_of_objects_are_refused_by_name(tmp_path: Path) -> None:
    dataset = ArraysDataset(filepath=str(tmp_path / "fitted.npz"))
    with pytest.raises((DataError, DatasetError), match="'mine/what'"):
        dataset.save({"mine": {"what": np.array([{}], dtype=object)}})
    assert not dataset.exists()


def test_a_page_is_previewed_by_its_summary(tmp_path: Path) -> None:
    dataset = versioned(HtmlPageDataset, tmp_path / "report.html", "2026-01-01T00.00.00.000Z")
    assert dataset.preview() == ""
    summary = '<section id="summary" class="a">\n<p>8.00 % \u2013 \u00e9</p></section>'
    page = f"<html><script>run()</script>{summary}<section>more</section></html>"
    dataset.save(page)
    assert dataset.load() == page
    assert dataset.preview() == summary.replace("\n", " ")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["report.html"]


def test_names_in_the_summary_of_a_page_are_no_markdown(tmp_path: Path) -> None:
    dataset = HtmlPageDataset(filepath=str(tmp_path / "report.html"))
    dataset.save('<section id="summary" class="a_b_c"><p>vox1_o_original* by as_norm</p></section>')
    assert '<section id="summary" class="a_b_c"><p>vox1_' in dataset.preview()
    text = re.sub(r"<[^>]*>", "", dataset.preview())
    assert text.splitlines() == ["vox1_", "o_", "original*", " by as_", "norm"]
