"""Kept units as plain values of a configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.models.pruning import KeptUnits

KEPT = KeptUnits(
    attention_heads=((0, 1, 3), ()),
    feed_forward=(((0, 1, 2, 5), (7,)), ((), (4, 6, 7))),
    convolution=((10, 11, 12), (0,)),
)
PLAIN = {
    "attention_heads": ["0-1,3", ""],
    "feed_forward": [["0-2,5", "7"], ["", "4,6-7"]],
    "convolution": ["10-12", "0"],
}


def test_kept_units_are_runs_of_numbers_in_a_configuration() -> None:
    assert KEPT.to_config() == PLAIN
    assert KeptUnits.from_config(json.loads(json.dumps(PLAIN))) == KEPT


def test_kept_units_are_given_module_by_module() -> None:
    modules = [
        (0, "attention_heads", (0, 1, 3)),
        (0, "feed_forward", (0, 1, 2, 5)),
        (0, "feed_forward", (7,)),
        (0, "convolution", (10, 11, 12)),
        (1, "attention_heads", ()),
        (1, "feed_forward", ()),
        (1, "feed_forward", (4, 6, 7)),
        (1, "convolution", (0,)),
    ]
    assert KEPT.modules() == modules
    assert KeptUnits.from_modules(KEPT.modules()) == KEPT


@pytest.mark.parametrize(
    "change",
    [
        {"attention_heads": ["1-0", ""]},
        {"attention_heads": ["0,0", ""]},
        {"attention_heads": ["-1", ""]},
        {"attention_heads": ["0-1,2", ""]},
        {"attention_heads": [[0, 1], []]},
        {"feed_forward": ["0-2", "7"]},
        {"convolution": None},
    ],
)
def test_other_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="kept_units must give attention_heads"):
        KeptUnits.from_config(PLAIN | change)
    with pytest.raises(DataError, match="kept_units must give"):
        KeptUnits.from_config("0-5")
