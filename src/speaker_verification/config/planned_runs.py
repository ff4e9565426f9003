"""Runs that the pipeline `compare` trains: each system with each seed, with all of its parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from speaker_verification.common.errors import ParameterError
from speaker_verification.config.compare_settings import CompareSettings
from speaker_verification.config.differences import (
    EVALUATION_GROUPS,
    TRAINING_GROUPS,
    differing_parameters,
    parameter_values,
)
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.tree import check_parameters

OWN = ("compare", "fast_dev_run", "seed")  # groups that a system cannot set
NUM_NAMED = 3  # differing parameters in a message


@dataclass(frozen=True)
class PlannedRun:
    """Training and evaluation of a system with a seed.

    Attributes:
        system: name of the system.
        seed: seed of the training.
        parameters: whole tree of parameters, with the phases as `fast_dev_run` shortens them.
    """

    system: str
    seed: int
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.system} seed {self.seed}"

    def values(self) -> dict[str, str]:
        """Parameters that the result depends on, as YAML, by dotted name."""
        return parameter_values(self.parameters, TRAINING_GROUPS + EVALUATION_GROUPS)


@dataclass(frozen=True)
class RunSurroundings:
    """Project, configuration and data that all runs of a comparison share.

    Attributes:
        project: folder of the project, in which the runs start.
        conf: folder of its configuration.
        environment: environment of the run that compares.
        data_root: data root with the prepared corpus.
        settings: contents of globals.yml and tracking.yml in that environment, by the name of the file.
    """

    project: Path
    conf: Path
    environment: str
    data_root: Path
    settings: Mapping[str, Mapping[str, Any]]

    def portable(self, path: Path) -> str:
        """Path, relative to the project where it is inside, so that the project can be moved."""
        return str(path.relative_to(self.project) if path.is_relative_to(self.project) else path)


class PlannedComparison(NamedTuple):
    """Runs of a comparison, and what they share."""

    runs: list[PlannedRun]
    surroundings: RunSurroundings


def plan_runs(loader: RecipeConfigLoader) -> list[PlannedRun]:
    """Runs in their order: all systems with the first seed, then with the next.

    Args:
        loader: loader of the parameters of the run that compares.

    Raises:
        ParameterError: a system is unknown, has impossible parameters or another corpus, or is another one.
    """
    settings = loader.typed_parameters.compare
    systems = {name: _parameters_of(name, settings, loader) for name in _chosen(settings)}
    _refuse_incomparable(systems)
    return [
        PlannedRun(name, seed, {**parameters, "seed": seed})
        for seed in settings.seeds
        for name, parameters in systems.items()
    ]


def _chosen(settings: CompareSettings) -> Iterator[str]:
    for name in settings.only or ():
        if name not in settings.systems:
            nearest = difflib.get_close_matches(name, settings.systems, n=1, cutoff=0.0)[0]
            raise ParameterError(
                f"compare.only names '{name}', which compare.systems does not hold: did you mean '{nearest}'?"
            )
    return (name for name in settings.systems if settings.only is None or name in settings.only)


def _parameters_of(name: str, settings: CompareSettings, loader: RecipeConfigLoader) -> dict[str, Any]:
    own = dict(settings.systems[name])
    for group in OWN:
        if group in own:
            raise ParameterError(f"compare.systems.{name} sets '{group}', which all systems share")
    recipe = own.pop("recipe", None) or loader["parameters"]["recipe"]
    try:
        parameters = loader.parameters_with(recipe, settings.parameters, own)
        check_parameters(parameters)
    except ParameterError as error:
        raise ParameterError(f"compare.systems.{name}: {error}") from None
    if parameters["embed"]["model"] is not None:
        raise ParameterError("compare evaluates the models that it trains: leave out embed.model")
    return parameters | {"fast_dev_run": None}


def _refuse_incomparable(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse systems of different corpora, whose trials differ, and one system under two names."""
    for (name, one), (other_name, other) in combinations(systems.items(), 2):
        pair = f"compare.systems: {name} and {other_name}"
        if differing := differing_parameters(one, other, ("prepare",)):
            told = ", ".join(
                f"{it.parameter} is {it.published or 'not set'} and {it.used or 'not set'}"
                for it in differing[:NUM_NAMED]
            )
            raise ParameterError(f"{pair} differ in the corpus, which all systems share: {told}")
        if not differing_parameters(one, other, TRAINING_GROUPS + EVALUATION_GROUPS):
            raise ParameterError(f"{pair} have the same parameters: a system is compared with others")
