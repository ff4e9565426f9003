"""Parameters of a run that differ from those of its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from speaker_verification.config.phases import PHASES

TRAINING_GROUPS = ("seed", "prepare", "model", "head", "augmentation", *PHASES)
EVALUATION_GROUPS = ("embed", "score")
WITHOUT_EFFECT = (  # on results: how they are computed, and where from
    "mirror",
    "num_workers",
    "num_threads",
    "memory_gigabytes",
    "resume",
    "save_every_steps",
    "save_every_seconds",
    "cache_megabytes",
    "keep_checkpoints",
    "monitor",
)


class DifferingParameter(NamedTuple):
    """A parameter with two values as YAML; empty where one side lacks it."""

    parameter: str
    published: str
    used: str


def differing_parameters(
    published: Mapping[str, Any], used: Mapping[str, Any], groups: tuple[str, ...]
) -> list[DifferingParameter]:
    """Parameters of some groups that differ, in the order of the published ones.

    A group that one side has a single value for, such as an architecture, counts as one parameter.

    Args:
        published: tree of parameters.
        used: tree of parameters.
        groups: names at the top of both trees.
    """
    one, other = ({name: tree[name] for name in groups if name in tree} for tree in (published, used))
    return list(_differing(one, other))


def parameter_values(used: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, str]:
    """Values of the parameters of some groups as YAML, by dotted name.

    Args:
        used: tree of parameters.
        groups: names at its top.
    """
    return dict(_values({name: used[name] for name in groups if name in used}))


def _values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if name in WITHOUT_EFFECT:
            continue
        if isinstance(value, Mapping) and value:
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _shown(value)


def _differing(
    published: Mapping[str, Any], used: Mapping[str, Any], prefix: str = ""
) -> Iterator[DifferingParameter]:
    for name in dict.fromkeys([*published, *used]):
        one, other = published.get(name), used.get(name)
        if name in WITHOUT_EFFECT or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{prefix}{name}.")
        else:
            sides = (_shown(tree[name]) if name in tree else "" for tree in (published, used))
            yield DifferingParameter(f"{prefix}{name}", *sides)


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
