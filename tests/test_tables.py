from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from speaker_verification.errors import DataError
from speaker_verification.tables import LEARNING_CURVE, UTTERANCES

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
