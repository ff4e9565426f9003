"""The floors of the house: who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.floors import FLOORS, GROUND, PACKAGE, PROJECT, SOURCE, imports_of


@pytest.mark.parametrize("floor", FLOORS)
def test_a_library_floor_knows_neither_kedro_nor_mlflow_nor_what_is_above(floor: str) -> None:
    files = sorted((SOURCE / floor).rglob("*.py"))
    assert files
    for file in files:
        for name in imports_of(file):
            top, *below = name.split(".")
            assert top not in ("kedro", "kedro_datasets", "mlflow"), f"{file.name} imports {name}"
            if top == PACKAGE:
                assert below[0] in {floor} | FLOORS[floor] | GROUND, f"{file.name} imports {name}"


@pytest.mark.project
def test_commands_that_compute_nothing_do_not_wait_for_heavy_packages() -> None:
    load = f"import sys; import {PACKAGE}.settings, {PACKAGE}.config.tree, {PACKAGE}.pipeline_registry"
    heavy = "print({'transformers', 'mlflow'}.intersection(sys.modules))"
    command = [sys.executable, "-c", f"{load}; {heavy}"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == "set()\n"


def test_test_modules_share_helpers_through_tests_support_alone() -> None:
    files = [*Path(__file__).parent.rglob("*.py"), *(PROJECT / "benchmarks").glob("*.py")]
    for file in files:
        for name in imports_of(file):
            if name.split(".")[0] == "tests":
                assert name.split(".")[1:2] == ["support"], (
                    f"{file.name} imports {name}; move it to tests/support"
                )


DOCUMENT = PROJECT / "docs" / "architecture.md"


def definitions_in(file: Path) -> set[str]:
    """Names of functions and classes of a module, methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.update(
                f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)
            )
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return names


def test_every_name_of_the_architecture_is_defined_in_the_file_that_it_links_to() -> None:
    links = re.findall(r"\[(`?)([^\]`]+)`?\]\(([^)]+)\)", DOCUMENT.read_text())
    assert len(links) > 30
    for is_name, name, target in links:
        file = (DOCUMENT.parent / target).resolve()
        assert file.is_file(), f"{DOCUMENT.name}: {target} does not exist"
        assert not is_name or name in definitions_in(file), f"{DOCUMENT.name}: {target} defines no {name}"


def test_the_architecture_tells_the_imports_that_are_allowed() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    told = {floor: set(re.findall(r"`(\w+)`", allowed)) for floor, allowed in rows}
    assert told == {floor: allowed for floor, allowed in FLOORS.items() if floor not in GROUND}
