"""An exchangeable part is found by its name, or by the dotted name of a class from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.registry import ClassRegistry, KindSettings, Registry
from speaker_verification.common.settings_base import Settings, with_lists


class Filter:
    class Settings(Settings):
        """Parameters of all filters."""


class LowPass(Filter):
    class Settings(Settings):
        """Parameters of a low-pass filter."""

        cutoff: int = Field(3, ge=1)


class Comb(Filter):
    class Settings(Settings):
        """Parameters of a comb filter."""

        delays: tuple[int, ...] = (1, 2)


FILTERS: ClassRegistry[type[Filter]] = ClassRegistry("filter", Filter, {"low_pass": LowPass, "comb": Comb})


class FilterSettings(KindSettings, registry=FILTERS, default="low_pass"):
    """One filter."""


class Chain(Settings):
    filter: FilterSettings = FilterSettings()


OUTSIDE = """
from pydantic import Field
from speaker_verification.common.settings_base import Settings
from tests.common.test_registry import Comb, Filter

class Notch(Filter):
    class Settings(Settings):
        width: float = Field(0.5, gt=0)

class Alien: ...

class Loose(Filter):
    Settings = dict

comb = Comb()
"""


@pytest.fixture
def outside(import_folder: Path) -> Path:
    """Folder on the import path, with a package of somebody else's."""
    (import_folder / "outside_filters.py").write_text(OUTSIDE)
    return import_folder


def parsed(values: dict[str, Any]) -> FilterSettings:
    return Chain.parse({"filter": values}, "").filter


def test_a_registered_name_finds_its_entry_and_entries_keep_their_order() -> None:
    assert FILTERS.find("comb") is FILTERS["comb"] is Comb
    assert list(FILTERS) == ["low_pass", "comb"]


def test_a_dotted_name_is_imported(outside: Path) -> None:
    assert FILTERS.find("outside_filters.Notch").__name__ == "Notch"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("low_pas", ["unknown filter 'low_pas'", "did you mean 'low_pass'", "low_pass, comb"]),
        ("outside_filters.", ["unknown filter", "low_pass, comb"]),
        ("outside filters.Notch", ["unknown filter", "low_pass, comb"]),
        ("no_such_package.Notch", ["no module 'no_such_package'", "PYTHONPATH"]),
        ("outside_filters.deeper.Notch", ["no module 'outside_filters.deeper'"]),
        ("outside_filters.Noch", ["'outside_filters' has no 'Noch'", "Notch"]),
        ("outside_filters.Alien", ["outside_filters.Alien", "not a subclass of", "test_registry.Filter"]),
        ("outside_filters.Filter", ["not a subclass of"]),
        ("outside_filters.comb", ["a Comb", "not a subclass of"]),
        ("outside_filters.Loose", ["Settings is the class builtins.dict"]),
    ],
)
def test_a_name_that_finds_nothing_is_refused_with_the_reason(
    outside: Path, name: str, parts: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        FILTERS.find(name)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import no_such_dependency", ["outside_broken.Notch", "'no_such_dependency'", "missing"]),
        ("1 / 0", ["outside_broken", "ZeroDivisionError", "division by zero"]),
        ("def", ["outside_broken", "SyntaxError"]),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_its_own_error(
    outside: Path, source: str, parts: list[str]
) -> None:
    (outside / "outside_broken.py").write_text(source)
    with pytest.raises(ParameterError) as caught:
        FILTERS.find("outside_broken.Notch")
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def test_a_registry_of_objects_takes_instances_only(outside: Path) -> None:
    objects: Registry[Filter] = Registry("filter", Filter, {"comb": Comb()})
    assert isinstance(objects.find("outside_filters.comb"), Comb)
    with pytest.raises(ParameterError, match=r"outside_filters\.Notch.*not an instance of"):
        objects.find("outside_filters.Notch")


@pytest.mark.parametrize(
    "entries", [{"alien": dict}, {"no.dots": Comb}, {"loose": type("Loose", (Filter,), {"Settings": 3})}]
)
def test_an_unfit_entry_cannot_be_registered(entries: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(entries))):
        ClassRegistry("filter", Filter, entries)


def test_settings_of_a_kind_have_a_group_for_every_registered_one() -> None:
    settings = parsed({"kind": "comb", "low_pass": {"cutoff": 5}, "comb": {"delays": [4]}})
    assert settings.chosen == Comb.Settings(delays=(4,))
    assert settings.chosen_class is Comb
    assert settings.in_use == {"kind": "comb", "delays": [4]}
    assert FilterSettings().chosen == LowPass.Settings(cutoff=3)


def test_parameters_of_a_class_from_outside_are_in_the_custom_group(outside: Path) -> None:
    settings = parsed({"kind": "outside_filters.Notch", "custom": {"width": 0.25}})
    assert settings.chosen.width == 0.25
    assert settings.in_use == {"kind": "outside_filters.Notch", "width": 0.25}
    assert parsed(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"kind": "combo"}, ["filter.kind", "did you mean 'comb'"]),
        ({"kind": 3}, ["filter.kind"]),
        ({"comb": {"delay": [1]}}, ["unknown parameter 'filter.comb.delay'", "filter.comb.delays"]),
        ({"low_pas": {}}, ["unknown parameter 'filter.low_pas'", "filter.low_pass"]),
        ({"kind": "outside_filters.Notch", "custom": {"widht": 1}}, ["filter.custom", "'widht'", "'width'"]),
        ({"kind": "outside_filters.Notch", "custom": {"width": 0}}, ["filter.custom", "'width' is 0"]),
        ({"kind": "no_such_package.Notch"}, ["filter.kind", "no_such_package"]),
    ],
)
def test_unfit_settings_of_a_kind_are_refused_by_their_dotted_name(
    outside: Path, values: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        parsed(values)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_lists_of_a_command_line_reach_the_groups_of_a_registry() -> None:
    assert with_lists(Chain, {"filter": {"comb": {"delays": "1;2"}}}) == {
        "filter": {"comb": {"delays": [1, 2]}}
    }
