from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import LEARNING_CURVE, SCORES, TRIALS, UTTERANCES, require_files
from speaker_verification.pipelines.embed.nodes import embed_trial_utterances
from speaker_verification.scoring.settings import EmbedSettings

CONF = Path(__file__).parents[2] / "conf/base"
ROW: dict[str, Any] = {"epoch": 1, "metric": "loss", "value": 2.5}


def test_a_table_takes_the_schema_s_order_and_types() -> None:
    given = pd.DataFrame([{"value": 3, "metric": "loss", "epoch": 1.0}])
    table = LEARNING_CURVE.conform(given)
    assert table.columns.tolist() == ["epoch", "metric", "value"]
    assert [str(kind) for kind in table.dtypes[["epoch", "value"]]] == ["int64", "float64"]
    assert given.columns.tolist() == ["value", "metric", "epoch"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW | {"extra": 1}], r"missing columns \[\], unknown columns \['extra'\]"),
        ([ROW, ROW | {"epoch": 2, "value": None}], "missing value in column 'value', row 1"),
        ([ROW | {"epoch": 1.5}], "column 'epoch' is not int64"),
        ([ROW, ROW], "duplicate key epoch, metric = 1, loss, row 1"),
    ],
)
def test_a_table_that_does_not_conform_is_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=rf"table 'learning_curve' \(a.parquet\).*{message}"):
        LEARNING_CURVE.conform(pd.DataFrame(rows), "a.parquet")


def test_scores_have_a_column_of_each_scoring_before_the_chosen_ratios() -> None:
    trial = {"llr": 1, "trial_list": "mine", "label": 1, "enroll_id": "a", "test_id": "b"}
    conformed = SCORES.conform(pd.DataFrame([{**trial, "mine": 2, "cosine": 0.5}]))
    columns = ["trial_list", "enroll_id", "test_id", "label", "mine", "cosine", "llr"]
    assert conformed.columns.tolist() == columns
    assert conformed[["mine", "cosine", "llr"]].dtypes.eq("float64").all()
    with pytest.raises(DataError, match="'mine'"):
        SCORES.conform(pd.DataFrame([{**trial, "mine": "high"}]))


def test_an_empty_table_conforms() -> None:
    assert UTTERANCES.conform(UTTERANCES.empty()).empty


def test_ids_that_repeat_over_trials_are_categories_whatever_they_were_given_as() -> None:
    ids = ["a/b/1.wav", "a/b/2.wav", "a/b/1.wav"]
    for given in (pd.Series(ids), pd.Series(ids, dtype=object), pd.Series(ids, dtype="category")):
        rows = {"trial_list": "vox1_o", "label": 1, "enroll_id": given, "test_id": given[::-1].to_numpy()}
        table = TRIALS.conform(pd.DataFrame(rows))
        assert isinstance(table["enroll_id"].dtype, pd.CategoricalDtype)
        assert table["enroll_id"].tolist() == ids
        assert table["test_id"].tolist() == ids[::-1]


def test_categories_become_values_where_a_table_holds_each_once() -> None:
    rows = pd.DataFrame({"epoch": [1], "metric": pd.Series(["loss"], dtype="category"), "value": [2.5]})
    assert LEARNING_CURVE.conform(rows)["metric"].tolist() == ["loss"]
    assert LEARNING_CURVE.conform(rows)["metric"].dtype == LEARNING_CURVE.empty()["metric"].dtype


def test_ids_that_are_no_text_are_refused() -> None:
    rows = pd.DataFrame({"trial_list": "vox1_o", "label": 1, "enroll_id": [1], "test_id": ["a"]})
    with pytest.raises(DataError, match="column 'enroll_id' is not dictionary"):
        TRIALS.conform(rows)


def utterance(path: str) -> dict[str, object]:
    return {
        "utterance_id": path[-11:],
        "speaker_id": "a",
        "session_id": "b",
        "subset": "vox1-test",
        "path": path,
        "num_samples": 16_000,
        "duration_seconds": 1.0,
    }


def test_files_below_the_root_are_stored_relative_to_it_and_others_as_they_are(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/here/audio/a/b/1.wav", "/elsewhere/audio/a/b/2.wav", f"{tmp_path}/here2/a/b/3.wav"]
    table = UTTERANCES.conform(pd.DataFrame(map(utterance, paths)))
    UTTERANCES.write(table, tmp_path / "t.parquet", tmp_path / "here")
    assert pd.read_parquet(tmp_path / "t.parquet")["path"].tolist() == ["audio/a/b/1.wav", *paths[1:]]
    assert table["path"].tolist() == paths
    pd.testing.assert_frame_equal(UTTERANCES.read(tmp_path / "t.parquet", tmp_path / "here"), table)
    moved = UTTERANCES.read(tmp_path / "t.parquet", tmp_path / "there")
    assert moved["path"].tolist() == [f"{tmp_path}/there/audio/a/b/1.wav", *paths[1:]]
    empty = UTTERANCES.empty()
    UTTERANCES.write(empty, tmp_path / "e.parquet", tmp_path)
    pd.testing.assert_frame_equal(UTTERANCES.read(tmp_path / "e.parquet", tmp_path), empty)


def test_a_path_that_is_none_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing value in column 'path', row 0"):
        UTTERANCES.write(pd.DataFrame([utterance("a/b/1.wav") | {"path": None}]), tmp_path / "t", tmp_path)
    with pytest.raises(DataError, match="column 'path' is not string"):
        UTTERANCES.write(pd.DataFrame([utterance("a/b/1.wav") | {"path": 1}]), tmp_path / "t", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_table_whose_files_are_elsewhere_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "1.wav").touch()
    there = pd.DataFrame([utterance(str(tmp_path / "1.wav"))])
    require_files({"utterances": there, "noise_clips": there.iloc[:0]})
    with pytest.raises(DataError, match=r"'noise_clips': /old/1.wav .* prepare the tables again"):
        require_files({"utterances": there, "noise_clips": there.assign(path="/old/1.wav")})


def test_moved_audio_is_missed_before_a_model_is_loaded(tmp_path: Path) -> None:
    moved = UTTERANCES.conform(pd.DataFrame([utterance("/old/a/b/1.wav"), utterance("/old/a/b/2.wav")]))
    enroll_id, test_id = moved["utterance_id"]
    trial = {"trial_list": "mine", "label": 1, "enroll_id": enroll_id, "test_id": test_id}
    embed = yaml.safe_load((CONF / "parameters_evaluation.yml").read_text())["embed"]
    settings = EmbedSettings.parse(embed, "embed")
    with pytest.raises(DataError, match=r"'utterances': /old/a/b/1.wav is not there"):
        embed_trial_utterances(Path("absent"), moved, pd.DataFrame([trial]), settings, "cpu", tmp_path)
