"""Typed, closed configuration; errors for unknown keys name the nearest known one."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    field_validator,
)

from speaker_verification.common.errors import ParameterError

SettingsType = TypeVar("SettingsType", bound="Settings")

SURE, POSSIBLE = 0.75, 0.4  # similarity of a misspelt name to the one that is meant
WORDINGS = {  # of pydantic's error types, where its own are about Python
    "model_type": "it is a group of parameters, not one value",
    "tuple_type": "give a list",
    "too_short": "give at least one",
    "dict_type": "it is a group of names with values, not one value",
}


def expanded(path: str) -> str:
    """Path with `~` and environment variables expanded.

    Raises:
        ValueError: unknown user, or unset variable.
    """
    text = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{[^}]*\})", text)
    if unset:
        raise ValueError(f"'{path}' names the environment variable {unset[0]}, which is not set")
    if text.startswith("~"):
        raise ValueError(f"'{path}' names a home folder that is not known: give the whole path")
    return text


LocalPath = Annotated[str, AfterValidator(expanded)]
ListName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]  # of trials


def number_or_share(value: Any) -> int | float:
    """The value, if it is a number of things or a share of them.

    Raises:
        ValueError: it is neither.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (0 < value < 1 or (isinstance(value, int) and value >= 2)):
        return value
    raise ValueError(f"{value!r} is neither a whole number from 2 nor a share below 1")


NumberOrShare = Annotated[int | float, PlainValidator(number_or_share)]


def seconds_or_range(value: Any) -> float | tuple[float, float]:
    """The value, if it is a number of seconds or the lowest and highest one of a range.

    Raises:
        ValueError: it is neither.
    """
    limits = value if isinstance(value, tuple) else (value,)
    are_numbers = all(isinstance(it, (int, float)) and not isinstance(it, bool) for it in limits)
    if len(limits) in (1, 2) and are_numbers and 0 < limits[0] <= limits[-1] < math.inf:
        return float(limits[0]) if len(limits) == 1 else (float(limits[0]), float(limits[1]))
    shown = list(value) if isinstance(value, tuple) else value
    raise ValueError(f"{shown!r} is neither a number above 0 nor a range of them: give the lower limit first")


PositiveSeconds = Annotated[float, Field(gt=0)]
SecondsOrRange = Annotated[
    PositiveSeconds | tuple[PositiveSeconds, PositiveSeconds], BeforeValidator(seconds_or_range)
]


def number_of(asked: int | float, total: int) -> int:
    """The number that a `NumberOrShare` asks for, a share of a total rounded and never below 2."""
    return asked if isinstance(asked, int) else max(2, round(asked * total))


class Settings(BaseModel):
    """Frozen group of parameters; its fields carry type, range and default.

    Derived values are properties or arguments, never written back. Nothing is converted but lists and whole
    numbers where fractions are allowed: `yes` is no number, `1` no truth value, `nan` no quantity.
    """

    read_before: ClassVar[
        tuple[str, ...]
    ] = ()  # names that are known beside the fields, and replaced by them
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _lists_as_tuples(cls, value: Any) -> Any:
        return _as_tuple(value)

    @classmethod
    def parse(cls: type[SettingsType], values: Mapping[str, Any], where: str) -> SettingsType:
        """Read settings from plain values.

        Args:
            values: what the parameter files and the command line gave.
            where: dotted name of this group in the parameters tree, for messages.

        Raises:
            ParameterError: naming every offending parameter by its dotted name, with the nearest known
                name for an unknown one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = error.errors()
            counted = len(problems) == 1  # an element that is refused makes its list too short as well
            lines = [
                _explain(cls, dict(problem), where)
                for problem in problems
                if counted or problem["type"] != "too_short"
            ]
            raise ParameterError("; ".join(cls._joined(lines))) from None

    @classmethod
    def _joined(cls, messages: list[str]) -> list[str]:
        """Messages on single parameters, joined where one mistake makes several of them."""
        return messages


def with_lists(settings: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Command-line values, with `a;b`, a single value or nothing turned into a list for list parameters.

    Args:
        settings: class that the values are of.
        values: values by name, nested as the settings are.
    """
    taken = dict(values)
    for name, field in settings.model_fields.items():
        groups = list(settings_in(field.annotation))
        if isinstance(taken.get(name), Mapping) and groups:
            taken[name] = with_lists(groups[0], taken[name])
        elif name in taken and _is_list(field.annotation):
            taken[name] = _as_list(taken[name])
    return taken


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [_number_or_text(part.strip()) for part in value.split(";") if part.strip()]
    if isinstance(value, (list, Mapping)):
        return value
    return [] if value is None else [value]


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        return any(map(_is_list, get_args(annotation)))
    return origin is tuple


def _explain(settings: type[Settings], problem: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join([where, *path] if where else path)
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter '{name}': {_suggest(settings, path, where)}"
    if problem["type"] == "missing":
        return f"parameter '{name}' is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"parameter '{name}': {message}" if name else message
    message = WORDINGS.get(problem["type"], message)
    return f"parameter '{name}' is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _suggest(settings: type[Settings], path: Sequence[str], where: str) -> str:
    """Did-you-mean hint: dotted names of the parameters nearest to an unknown one."""
    *group, name = path
    beside = _fields_at(settings, group)
    depth = len(group) + 1
    tree = list(_names_in(settings))

    def named(last: str, within: Sequence[str]) -> list[str]:
        return [".".join(it) for it in tree if it[-1] == last and it[: len(within)] == tuple(within)]

    def near(names: Sequence[str], similarity: float) -> list[str]:
        return difflib.get_close_matches(name, names, n=1, cutoff=similarity)

    def in_group(similarity: float) -> list[str]:
        return [".".join([*group, found]) for found in near(beside, similarity)]

    elsewhere = near(sorted({it[-1] for it in tree if len(it) != depth}), SURE)
    meant = (
        named(name, group)
        or in_group(SURE)
        or named(name, ())
        or [full for last in elsewhere for full in named(last, ())]
        or in_group(POSSIBLE)
    )
    if not meant:
        return f"known here: {', '.join(sorted(beside))}"
    prefix = f"{where}." if re.fullmatch(r"\w+(\.\w+)*", where) and not where.endswith(".yml") else ""
    *first, last = [f"'{prefix}{full}'" for full in meant]
    return f"did you mean {' or '.join([', '.join(first), last] if first else [last])}?"


def _names_in(settings: type[Settings], group: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields of a settings class, nested groups included."""
    for name, field in settings.model_fields.items():
        yield (*group, name)
        for nested in settings_in(field.annotation):
            yield from _names_in(nested, (*group, name))


def _fields_at(settings: type[Settings], path: Sequence[str]) -> list[str]:
    """Field names of the settings class at a path inside another one."""
    current: type[Settings] = settings
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            continue
        nested = list(settings_in(field.annotation))
        if not nested:
            return []
        current = nested[0]
    return [*current.model_fields, *current.read_before]


def settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in settings_in(part)]
