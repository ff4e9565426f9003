from __future__ import annotations

import pytest
from pydantic import Field, ValidationError, model_validator

from speaker_verification.configuration import Settings
from speaker_verification.errors import ParameterError


class Inner(Settings):
    dropout: float = Field(0.1, ge=0, lt=1)


class Outer(Settings):
    size: int
    inner: Inner = Inner()
    other: Inner | None = None

    @model_validator(mode="after")
    def _even(self) -> Outer:
        if self.size % 2:
            raise ValueError(f"size {self.size} is odd")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 2, "iner": {}}, r"unknown parameter 'top.iner': did you mean 'inner'\?"),
        (
            {"size": 2, "inner": {"drop_out": 0}},
            r"unknown parameter 'top.inner.drop_out': did you mean 'dropout'\?",
        ),
        (
            {"size": 2, "other": {"droput": 0}},
            r"unknown parameter 'top.other.droput': did you mean 'dropout'\?",
        ),
        (
            {"size": 2, "dropout": 0},
            r"unknown parameter 'top.dropout': did you mean 'inner.dropout' or 'other.dropout'\?",
        ),
        ({"size": 2, "zzz": 0}, "unknown parameter 'top.zzz': known here: inner, other, size"),
        ({}, "parameter 'top.size' is missing"),
        ({"size": "many"}, "parameter 'top.size' is 'many': input should be a valid integer"),
        (
            {"size": 2, "inner": {"dropout": 1}},
            "parameter 'top.inner.dropout' is 1: input should be less than 1",
        ),
        ({"size": 3}, "parameter 'top': size 3 is odd"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}") as caught:
        Outer.parse(values, "top")
    assert "\n" not in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = Outer.parse({"size": 4}, "top")
    assert settings == Outer(size=4)
    with pytest.raises(ValidationError):
        settings.size = 6  # type: ignore[misc]
