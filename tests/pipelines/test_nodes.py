"""Nodes take typed settings, as Kedro's validator builds them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import pytest
from kedro.io import DataCatalog
from kedro.pipeline.node import Node
from kedro.validation.parameter_validator import ParameterValidator

from speaker_verification import pipelines
from speaker_verification.common.settings_base import Settings
from speaker_verification.config.phases import PHASES, checkpoint_of, learning_curve_of
from speaker_verification.config.tree import Parameters
from speaker_verification.hooks.inputs import JobsHook
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.training.run import PhaseJob
from tests.support.config import CONF, parameters

NODES = {node.name: node for node in register_pipelines()["__default__"].nodes} | {
    node.name: node for pipeline in register_pipelines().values() for node in pipeline.nodes
}
SOURCES = sorted(Path(pipelines.__file__).parent.rglob("*.py"))


def arguments(node: Node) -> Iterator[tuple[str, Any]]:
    """Inputs of a node with the annotations of the arguments that they become."""
    bound = inspect.signature(node.func).bind(*node.inputs).arguments
    hints = get_type_hints(node.func)
    for name, given in bound.items():
        yield from ((one, hints[name]) for one in (given if isinstance(given, tuple) else [given]))


@pytest.mark.parametrize("name", NODES)
def test_groups_of_parameters_reach_a_node_as_the_tree_types_them(name: str) -> None:
    fields = get_type_hints(Parameters)
    for given, annotation in arguments(NODES[name]):
        if given.startswith("params:"):
            assert annotation is fields[given.removeprefix("params:")], f"{name}: {given}"


def test_kedro_builds_every_group_that_a_node_takes() -> None:
    built = ParameterValidator(register_pipelines()).validate_raw_params(parameters(CONF, "mini"))
    typed = Parameters.parse(parameters(CONF, "mini"), "")
    taken = {given.removeprefix("params:") for node in NODES.values() for given in node.inputs}
    groups = {name for name, value in typed if isinstance(value, Settings)}
    assert {name for name, value in built.items() if isinstance(value, Settings)} == groups & taken
    assert all(built[name] == getattr(typed, name) for name in groups & taken)
    in_jobs = {field.name for field in dataclasses.fields(PhaseJob)}
    assert groups <= taken | in_jobs


def test_a_hook_gives_every_phase_its_settings_as_one_input() -> None:
    typed = Parameters.parse(parameters(CONF, "mini"), "")
    hook, catalog = JobsHook(), DataCatalog()
    hook._parameters = typed
    hook.after_catalog_created(catalog)
    for phase in PHASES:
        (given, annotation), *_ = arguments(NODES[f"training.{phase}.train_phase"])
        job = catalog.load(given)
        assert isinstance(job, annotation)
        assert (job.name, job.phase) == (phase, getattr(typed, phase))
        assert (job.model, job.head, job.augmentation) == (typed.model, typed.head, typed.augmentation)
        assert (job.seed, job.device) == (typed.seed, typed.device)


def test_the_checkpoint_of_a_phase_is_saved_last() -> None:
    for phase in PHASES:
        saved = NODES[f"training.{phase}.train_phase"].outputs
        assert saved == [learning_curve_of(phase), checkpoint_of(phase)]


def test_no_node_takes_more_than_seven_inputs_that_are_not_tables() -> None:
    counts = {
        name: sum(annotation is not pd.DataFrame for _, annotation in arguments(node))
        for name, node in NODES.items()
    }
    assert max(counts.values()) <= 7, counts


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_node_parses_parameters(file: Path) -> None:
    text = file.read_text()
    assert ".parse(" not in text
    assert "model_validate" not in text
