"""conf/base and the settings classes state the same defaults, and a phase only its differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from speaker_verification.common.settings_base import Settings
from speaker_verification.config.phases import COMPRESS, TRAINED
from speaker_verification.config.tree import Parameters
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.phase import PhaseSettings
from tests.support.config import CONF

BASE: dict[str, Any] = {
    name: value
    for file in sorted(CONF.glob("base/parameters*.yml"))
    for name, value in yaml.safe_load(file.read_text()).items()
}
REQUIRED = {name for name, field in PhaseSettings.model_fields.items() if field.is_required()}
GROUPS: dict[str, type[Settings]] = {
    name: field.annotation
    for name, field in Parameters.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings) and name not in TRAINED
}


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_conf_base_is_its_settings_class_by_default(group: str) -> None:
    default = GROUPS[group]().model_dump(mode="json")
    assert dict(leaves(BASE[group])) == dict(leaves(default))


def test_phase_defaults_are_those_of_the_settings_class() -> None:
    required = dict.fromkeys(("frontend", "frontend_mode"), "training") | {"frontend": "trained"}
    numbers = {"epochs": 1, "crop_seconds": 1.0, "batch_size": 2}
    default = PhaseSettings.parse(required | numbers, "").model_dump(mode="json", exclude=REQUIRED)
    assert dict(leaves(BASE["phase_defaults"])) == dict(leaves(default))


def test_the_compression_states_all_that_it_has_beside_a_phase() -> None:
    own = {*CompressSettings.model_fields} - {*PhaseSettings.model_fields}
    default = CompressSettings.parse(BASE[COMPRESS], "").model_dump(mode="json", include=own)
    stated = {name: value for name, value in BASE[COMPRESS].items() if name in own}
    fields = CompressSettings.model_fields
    assert {name: fields[name].default for name in own - {"gates"}} == {
        name: stated[name] for name in own - {"gates"}
    }
    assert dict(leaves(stated)) == dict(leaves(default))


@pytest.mark.parametrize("phase", TRAINED)
def test_a_phase_states_what_it_must_and_else_only_its_differences(phase: str) -> None:
    assert set(BASE[phase]) >= REQUIRED
    defaults = dict(leaves(BASE["phase_defaults"]))
    repeated = [name for name, value in leaves(BASE[phase]) if name in defaults and value == defaults[name]]
    assert not repeated
