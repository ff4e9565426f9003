"""Reference of all parameters, from the fields of the settings classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from speaker_verification.common.settings_base import Settings, settings_in
from speaker_verification.config.phases import PHASES
from speaker_verification.config.tree import Parameters
from speaker_verification.training.phase import PhaseSettings

LONGEST_CHOICES = 60  # characters of choices that a comment repeats
LIMITS = ("ge", "gt", "le", "lt", "multiple_of")
PHASE = "PHASE"  # in the names of parameters that every phase has


@dataclass(frozen=True)
class Parameter:
    """A parameter, or a group of parameters.

    Attributes:
        name: dotted name.
        default: default value as YAML; empty for groups and where a value must be given.
        values: range or choices; empty where the type says all.
        description: description of the field.
        is_group: whether it holds other parameters.
    """

    name: str
    default: str
    values: str
    description: str
    is_group: bool = False

    @property
    def comment(self) -> str:
        """Description and values in one line."""
        values = f"({self.values})" if self.values and len(self.values) < LONGEST_CHOICES else ""
        return " ".join(part for part in (self.description.rstrip("."), values) if part)


def list_parameters(settings: type[Settings] = Parameters, within: str = "") -> Iterator[Parameter]:
    """All parameters and groups of a settings class in order; those of the phases once, as PHASE.

    Of a phase of another class its further parameters are listed. Groups whose names are free are listed as
    NAME.

    Args:
        settings: class whose fields are listed.
        within: dotted name of the group that the class describes.
    """
    common = {} if settings is PhaseSettings else PhaseSettings.model_fields
    for name, field in settings.model_fields.items():
        if issubclass(settings, PhaseSettings) and name in common:
            continue
        groups = settings_in(field.annotation)
        full = f"{within}.{name}" if within else name
        description = " ".join((field.description or "").split())
        yield Parameter(full, _shown(field, bool(groups)), _values(field), description, bool(groups))
        if full in PHASES[1:]:
            continue
        inside = f"{full}.NAME" if get_origin(field.annotation) is dict else full
        for group in groups:
            yield from list_parameters(group, PHASE if full in PHASES else inside)


def _shown(field: FieldInfo, is_group: bool) -> str:
    if field.is_required() or (is_group and field.default is not None):
        return ""
    return show(field.get_default(call_default_factory=True))


def show(value: Any) -> str:
    """A value as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {show(of_name)}' for name, of_name in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(field: FieldInfo) -> str:
    """Choices or range of a field, of its elements where it is a list."""
    choices = list(_choices(field.annotation))
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]
    limits: dict[str, Any] = {}
    for limit in (*field.metadata, *_limits_in(field.annotation)):
        limits |= {name: getattr(limit, name) for name in LIMITS if hasattr(limit, name)}
    return f"a multiple of {limits['multiple_of']}" if "multiple_of" in limits else _range(limits)


def _range(limits: dict[str, Any]) -> str:
    shown = {name: show(limit) for name, limit in limits.items()}
    if {"gt", "lt"} <= set(shown):
        return f"between {shown['gt']} and {shown['lt']}"
    lower = shown.get("ge") or (f"above {shown['gt']}" if "gt" in shown else "")
    upper = shown.get("le") or (f"below {shown['lt']}" if "lt" in shown else "")
    if lower and upper:
        return f"{lower} to {upper}"
    if "le" in shown:
        return f"{upper} or less"
    return f"{lower} or more" if "ge" in shown else lower or upper


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def _limits_in(annotation: Any) -> Iterator[Any]:
    """Limits of the elements of a list, or of the members of a union."""
    for part in get_args(annotation):
        metadata = getattr(part, "__metadata__", ())
        for limit in metadata:
            yield from limit.metadata if isinstance(limit, FieldInfo) else (limit,)
        yield from _limits_in(part)
