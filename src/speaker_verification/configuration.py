"""Typed, closed configuration: an unknown key is refused and the nearest known one is named."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from speaker_verification.errors import ParameterError

SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings(BaseModel):
    """A frozen group of parameters; fields carry their types, ranges and defaults.

    Derived values are properties or arguments, never written back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
            lines = [_explain(cls, dict(problem), where) for problem in error.errors()]
            raise ParameterError("; ".join(lines)) from None


def _explain(settings: type[Settings], problem: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join([where, *path] if where else path)
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter '{name}': {_suggest(settings, path)}"
    if problem["type"] == "missing":
        return f"parameter '{name}' is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"parameter '{name}': {message}" if name else message
    return f"parameter '{name}' is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _suggest(settings: type[Settings], path: Sequence[str]) -> str:
    """Where an unknown parameter may have been meant: in a group beside it, or under a similar name."""
    *group, name = path
    known = _fields_at(settings, group)
    meant = [f"{inner}.{name}" for inner in known if name in _fields_at(settings, [*group, inner])]
    meant = meant or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if not meant:
        return f"known here: {', '.join(sorted(known))}"
    return f"did you mean {' or '.join(map(repr, meant))}?"


def _fields_at(settings: type[Settings], path: Sequence[str]) -> list[str]:
    """Field names of the settings class that lies at the given path below another one."""
    current: type[Settings] = settings
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            continue
        nested = list(_settings_in(field.annotation))
        if not nested:
            return []
        current = nested[0]
    return list(current.model_fields)


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _settings_in(part)]
