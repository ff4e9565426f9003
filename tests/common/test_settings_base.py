from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError, model_validator

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import LocalPath, Settings, with_lists


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
        ({"size": 2, "iner": {}}, r"unknown parameter 'top.iner': did you mean 'top.inner'\?"),
        (
            {"size": 2, "inner": {"drop_out": 0}},
            r"unknown parameter 'top.inner.drop_out': did you mean 'top.inner.dropout'\?",
        ),
        (
            {"size": 2, "other": {"droput": 0}},
            r"unknown parameter 'top.other.droput': did you mean 'top.other.dropout'\?",
        ),
        (
            {"size": 2, "dropout": 0},
            r"unknown parameter 'top.dropout': did you mean 'top.inner.dropout' or 'top.other.dropout'\?",
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


class Typed(Settings):
    count: int | None = 1
    rate: float = 1.0
    flag: bool = False
    names: tuple[str, ...] = ()
    numbers: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    ranges: tuple[tuple[float, float], ...] = ()
    path: LocalPath | None = None
    paths: dict[str, LocalPath] = Field(default_factory=dict)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    "values",
    [
        {"count": True},  # what YAML makes of yes, on and true
        {"count": 1.0},
        {"count": "1"},
        {"rate": True},
        {"rate": "1"},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"flag": 1},
        {"flag": "yes"},
        {"numbers": [1, True]},
        {"numbers": [1, float("nan")]},
        {"ranges": [[0, 1], [1, False]]},
        {"inner": {"dropout": False}},
    ],
)
def test_nothing_is_taken_for_a_value_of_another_type(values: dict[str, Any]) -> None:
    name = next(iter(values))
    with pytest.raises(ParameterError, match=rf"^parameter 'top\.{name}[\w.]*' is .*input should be"):
        Typed.parse(values, "top")


def test_whole_numbers_and_lists_are_taken_where_they_mean_the_same() -> None:
    settings = Typed.parse({"rate": 2, "ranges": [[0, 1]], "names": ["a"]}, "top")
    assert (settings.rate, settings.ranges, settings.names) == (2.0, ((0.0, 1.0),), ("a",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": "a"}, "parameter 'top.names' is 'a': give a list"),
        ({"numbers": []}, "parameter 'top.numbers' is .*: give at least one"),
        ({"numbers": [0]}, "parameter 'top.numbers.0' is 0: input should be greater than 0$"),
        ({"inner": 3}, "parameter 'top.inner' is 3: it is a group of parameters"),
    ],
)
def test_the_form_of_a_value_is_told_without_python_s_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        Typed.parse(values, "top")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"names": "a;b"}, {"names": ["a", "b"]}),
        ({"names": "a"}, {"names": ["a"]}),
        ({"names": None}, {"names": []}),
        ({"numbers": "2;0.5; 1e-3"}, {"numbers": [2, 0.5, 1e-3]}),
        ({"numbers": 0.5}, {"numbers": [0.5]}),
        ({"ranges": [[0, 1]]}, {"ranges": [[0, 1]]}),
        ({"path": "a;b", "inner": {"dropout": 0}}, {"path": "a;b", "inner": {"dropout": 0}}),
        ({"inner": 3, "unknown": "a;b"}, {"inner": 3, "unknown": "a;b"}),
    ],
)
def test_a_text_is_taken_apart_where_a_list_belongs(given: dict[str, Any], taken: dict[str, Any]) -> None:
    assert with_lists(Typed, given) == taken


def test_home_and_variables_in_paths_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", "/disks/corpora")
    monkeypatch.delenv("NOWHERE", raising=False)
    settings = Typed.parse({"path": "~/model", "paths": {"mine": "$CORPORA/mine.txt"}}, "top")
    assert settings.path == str(Path.home() / "model")
    assert settings.paths == {"mine": "/disks/corpora/mine.txt"}
    with pytest.raises(
        ParameterError, match=r"^parameter 'top\.path': .*variable \$NOWHERE, which is not set"
    ):
        Typed.parse({"path": "$NOWHERE/model"}, "top")
    with pytest.raises(ParameterError, match=r"^parameter 'top\.path': .*home folder"):
        Typed.parse({"path": "~no-such-user/model"}, "top")
