from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from speaker_verification.errors import DataError
from speaker_verification.tables import LEARNING_CURVE, TRIALS, UTTERANCES

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
        ([ROW, ROW | {"epoch": 2, "value": None}], "no value in column 'value', row 1"),
        ([ROW | {"epoch": 1.5}], "column 'epoch' is not int64"),
        ([ROW, ROW], "epoch, metric = 1, loss stands more than once"),
    ],
)
def test_a_table_that_does_not_conform_is_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=rf"table 'learning_curve' \(a.parquet\).*{message}"):
        LEARNING_CURVE.conform(pd.DataFrame(rows), "a.parquet")


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
