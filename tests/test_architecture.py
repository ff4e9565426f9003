"""The floors of the house: who may import whom."""

from __future__ import annotations

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


@pytest.mark.parametrize("package", ["transformers", "mlflow"])
def test_commands_that_compute_nothing_do_not_wait_for_heavy_packages(package: str) -> None:
    import subprocess
    import sys

    load = f"import sys; import {PACKAGE}.settings, {PACKAGE}.config.tree, {PACKAGE}.pipeline_registry"
    command = [sys.executable, "-c", f"{load}; sys.exit({package!r} in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0


def test_test_modules_share_helpers_through_tests_support_alone() -> None:
    files = [*Path(__file__).parent.rglob("*.py"), *(PROJECT / "benchmarks").glob("*.py")]
    for file in files:
        for name in imports_of(file):
            if name.split(".")[0] == "tests":
                assert name.split(".")[1:2] == ["support"], (
                    f"{file.name} imports {name}; move it to tests/support"
                )
