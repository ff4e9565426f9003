"""Configuration loader with recipes, and with phases as differences from their defaults.

Four layers, of which the later one wins: `conf/base`, the recipe (`conf/recipes`), the environment,
`--params`. In each of them `phase_defaults` holds what all phases share, under the phases of that layer.
An environment has its own changes to a recipe, and to recipes based on it, in its `recipes/NAME.yml`.
The layer that gives training corpora of the user's own has `conf/own_corpora.yml` under it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf.errors import OmegaConfBaseException

from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.common.settings_base import expanded, with_lists
from speaker_verification.config.files import check_yaml
from speaker_verification.config.phases import COMPRESS, PHASE_DEFAULTS, PHASES, TRAINED

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

    from speaker_verification.config.tree import Parameters

RECIPES = "recipes"  # their folder, beside the environments
OWN_CORPORA = "own_corpora.yml"  # beside them too
MODEL_TYPE = "model_type"  # of an encoder's architecture
DEV_EPOCHS = 2  # two, so that the transition between epochs is run as well


class RecipeConfigLoader(OmegaConfigLoader):
    """Kedro's loader, with the chosen recipe as one more layer of the parameters.

    The parameter `recipe` names a file of the folder RECIPES; `fast_dev_run` shortens every phase.
    Credentials are those of conf/local in every environment, whose own go over them. Every environment has a
    data root of its own, in which `~` and environment variables are replaced.

    Raises:
        DataError: a file cannot be read; its line is named.
        ParameterError: the environment, the recipe or the data root is unknown or impossible.
    """

    _changes: tuple[dict[str, Any], ...] = ()  # of the parameters, over the environment

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key in self.data or key not in self.config_patterns:
            return super().__getitem__(key)
        with _one_line_errors(key):
            for folder in (self.base_env, self._run_env):
                self._check_folder(folder)
                self._check_files(folder, key, self.config_patterns[key])
            if key == "credentials":
                return self._read_credentials()
            if key == "parameters":
                return deepcopy(self._parameters)
            if key == "globals":
                return self._read_globals()
            return super().__getitem__(key)

    @cached_property
    def typed_parameters(self) -> Parameters:
        """The typed parameters tree, parsed once for all who ask.

        Raises:
            ParameterError: naming every unknown and impossible parameter.
        """
        from speaker_verification.config.tree import check_parameters

        return check_parameters(self["parameters"])

    def parameters_of_recipe(self, recipe: str) -> dict[str, Any]:
        """Parameters of a recipe alone, without the environment and the command line."""
        return self._with(self.base_env, self.base_env, {"recipe": recipe})["parameters"]

    def parameters_with(self, recipe: str, *changes: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of this run with another recipe, and with changes over the environment.

        Args:
            recipe: name of the recipe.
            changes: groups of parameters, the later over the earlier; the command line goes over all.

        Raises:
            ParameterError: the recipe is unknown.
        """
        given = {**(self.runtime_params or {}), "recipe": recipe}
        other = self._with(self.env, self.default_run_env, given)
        other._changes = tuple(map(in_phases, changes))
        return other["parameters"]

    def _with(self, env: str | None, default_run_env: str, given: Mapping[str, Any]) -> RecipeConfigLoader:
        """Loader of the same configuration with another environment and command line."""
        return type(self)(
            self.conf_source,
            env=env,
            runtime_params=dict(given),
            config_patterns=self.config_patterns,
            base_env=self.base_env,
            default_run_env=default_run_env,
        )

    @property
    def _run_env(self) -> str:
        return self.env or self.default_run_env

    @property
    def _own_env(self) -> str | None:
        """Environment that is merged over the base; None for the base itself."""
        return None if self._run_env == self.base_env else self._run_env

    @cached_property
    def full_parameters(self) -> Parameters:
        """The typed parameters tree of the whole recipe: without what `fast_dev_run` shortens."""
        from speaker_verification.config.tree import check_parameters

        return check_parameters(self._whole_parameters | {"fast_dev_run": None})

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        """The merged parameters, read once: Kedro and `typed_parameters` both ask for them."""
        whole = self._whole_parameters
        if is_count(whole.get("fast_dev_run")):
            return _merge(whole, shortened_phases(whole), self.runtime_params)
        return whole

    @cached_property
    def _whole_parameters(self) -> dict[str, Any]:
        if self.runtime_params:
            from speaker_verification.config.tree import Parameters

            self.runtime_params = with_lists(Parameters, in_phases(self.runtime_params))
        given = self.runtime_params or {}
        patterns = self.config_patterns["parameters"]
        base = self._read_layer(self.base_env, patterns)
        own = self._read_layer(self._own_env, patterns) if self._own_env else {}
        chosen = _merge(base, own, given).get("recipe")
        recipes = self._read_recipes(chosen)
        layers = [base, _merge(*recipes.values()), own, *self._read_own_changes(recipes)]
        if _has_own_corpora(own):
            layers.insert(2, self._read_layer("", [OWN_CORPORA]))
        elif _has_own_corpora(given):
            layers.append(self._read_layer("", [OWN_CORPORA]))
        return _merge(*layers, *self._changes, given)

    def _read_globals(self) -> dict[str, Any]:
        """Globals, with a data root that is a folder of this environment."""
        values = super().__getitem__("globals")
        root = values.get("data_root")
        if root is None:
            return values
        env, patterns = self._run_env, self.config_patterns["globals"]
        file = f"conf/{env}/{patterns[0]}"
        if env not in (self.base_env, self.default_run_env):
            own = self.load_and_merge_dir_config(self._get_conf_env_path(env), patterns, "globals", set())
            if own.get("data_root") is None:
                raise ParameterError(
                    f"{file} must set data_root, a folder of its own: without, the environment '{env}' would "
                    f"share '{root}' with conf/{self.base_env}"
                )
        if not isinstance(root, str) or not root.strip() or "://" in root:
            raise ParameterError(f"{file}: data_root is {root!r}: give the path of a folder on this machine")
        try:
            return {**values, "data_root": expanded(root)}
        except ValueError as error:
            raise ParameterError(f"{file}: data_root {error}") from None

    def _read_layer(self, folder: str, patterns: list[str]) -> dict[str, Any]:
        """Parameters of a folder by phase, without those of the command line."""
        path, key = self._get_conf_env_path(folder), "own parameters"  # Kedro merges them into "parameters"
        return in_phases(self.load_and_merge_dir_config(path, patterns, key, processed_files=set()))

    def _read_credentials(self) -> dict[str, Any]:
        """Credentials by group, with a group `download`, which the catalog names, even if it is empty."""
        folders = dict.fromkeys([self.base_env, self.default_run_env, self.env or self.base_env])
        there = [folder for folder in folders if Path(self._get_conf_env_path(folder)).is_dir()]
        patterns = self.config_patterns["credentials"]
        layers = []
        for folder in there:
            self._check_files(folder, "credentials", patterns)
            layers.append(
                self.load_and_merge_dir_config(
                    self._get_conf_env_path(folder),
                    patterns,
                    "credentials",
                    set(),
                    read_environment_variables=True,
                )
            )
        return _merge({"download": {}}, *layers)

    def _read_recipes(self, name: Any, heirs: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
        """Parameters of a recipe and of those that it is based on, by name, the furthest of them first.

        Args:
            name: name of the recipe.
            heirs: recipes based on it, from the chosen one on.
        """
        file = self._recipe_file(name, heirs)
        self._check_files(RECIPES, "parameters", [file])
        recipe = self._read_layer(RECIPES, [file])
        parent = recipe.pop("based_on", None)
        return {**(self._read_recipes(parent, (*heirs, name)) if parent else {}), name: recipe}

    def _read_own_changes(self, recipes: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Changes of the environment to recipes, in their order."""
        if self._own_env is None:
            return
        folder = f"{self._own_env}/{RECIPES}"
        for name in recipes:
            if self._fs.isfile(f"{Path(self._get_conf_env_path(folder)).as_posix()}/{name}.yml"):
                self._check_files(folder, "parameters", [f"{name}.yml"])
                yield self._read_layer(folder, [f"{name}.yml"])

    def _recipe_file(self, name: Any, heirs: tuple[str, ...]) -> str:
        paths = self._fs.glob(f"{Path(self._get_conf_env_path(RECIPES)).as_posix()}/*.yml")
        files = {Path(path).stem: Path(path).name for path in paths}
        asking = f"conf/{RECIPES}/{heirs[-1]}.yml: 'based_on'" if heirs else "parameter 'recipe'"
        if name in heirs:
            raise ParameterError(f"{asking} is '{name}', which is based on this very recipe")
        if name not in files:
            nearest = difflib.get_close_matches(str(name), files, n=1, cutoff=0.0)
            hint = f": did you mean '{nearest[0]}'?" if nearest else ""
            raise ParameterError(f"{asking} is '{name}', which conf/{RECIPES} does not hold{hint}")
        return files[name]

    def _check_folder(self, env: str) -> None:
        """Refuse an unknown environment, naming the nearest one."""
        folder = Path(self._get_conf_env_path(env))
        if env != RECIPES and self._fs.isdir(folder.as_posix()):
            return
        conf = folder.parent.as_posix()
        folders = [Path(path).name for path in self._fs.glob(f"{conf}/*") if self._fs.isdir(path)]
        known = sorted(name for name in folders if name not in (self.base_env, RECIPES) and name[0] != ".")
        recipes = [Path(path).stem for path in self._fs.glob(f"{conf}/{RECIPES}/*.yml")]
        if env == RECIPES or env in recipes:
            recipe = "NAME" if env == RECIPES else env
            raise ParameterError(f"'{env}' is no environment: choose a recipe by --params=recipe={recipe}")
        nearest = difflib.get_close_matches(env, known, n=1, cutoff=0.4)
        hint = f": did you mean '{nearest[0]}'?" if nearest else ""
        raise ParameterError(
            f"no environment '{env}' in {self.conf_source}, which holds {', '.join(known) or 'none'}{hint}"
        )

    def _check_files(self, folder: str, key: str, patterns: list[str]) -> None:
        """Refuse files that cannot be read."""
        inside = Path(self._get_conf_env_path(folder)).as_posix()
        found = {path for pattern in patterns for path in self._fs.glob(f"{inside}/{pattern}")}
        for path in sorted(path for path in found if self._is_valid_config_path(Path(path))):
            if not self._is_hidden(path):
                with self._fs.open(path) as file:
                    name = f"conf/{folder}{path.removeprefix(inside)}"
                    check_yaml(name, file.read(), secret=key == "credentials")


def parameters_of(context: KedroContext) -> Parameters:
    """Typed parameters tree of a run.

    Raises:
        ParameterError: naming every unknown and impossible parameter.
    """
    loader = context.config_loader
    assert isinstance(loader, RecipeConfigLoader)
    return loader.typed_parameters


@contextmanager
def _one_line_errors(key: str) -> Iterator[None]:
    """Context that turns errors of Kedro and OmegaConf into one line, without credentials."""
    try:
        yield
    except UserError:
        raise
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        if key == "credentials":
            unset = re.search(r"Environment variable '\w+'", reason)
            reason = f"{unset[0]} not found" if unset else "cannot be resolved"
        name = f"'{error.full_key}': " if error.full_key else ""
        raise DataError(f"conf: {key}: {name}{reason}") from None
    except (MissingConfigException, ValueError) as error:
        reason = "; ".join(str(error).split("\n"))
        raise DataError(f"conf: {key}: {'cannot be read' if key == 'credentials' else reason}") from None


def in_phases(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of one layer with its `phase_defaults` spread over its phases, which go before them.

    Args:
        layer: parameters of a folder, a recipe or the command line, any of the groups in them.

    Raises:
        ParameterError: `phase_defaults` is no group of parameters.
    """
    spread = dict(layer)
    defaults = spread.pop(PHASE_DEFAULTS, None)
    if defaults is None:
        return spread
    if not isinstance(defaults, Mapping):
        raise ParameterError(f"parameter '{PHASE_DEFAULTS}' is {defaults!r}: it is a group of parameters")
    for phase in PHASES:
        own = spread.get(phase) or {}
        if isinstance(own, Mapping):  # anything else is refused when the whole tree is checked
            spread[phase] = _merge(defaults, own)
    return spread


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def shortened_phases(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that shorten every phase to a few steps.

    Args:
        parameters: whole parameters tree, whose `fast_dev_run` is the number of steps of an epoch.
    """
    steps = parameters["fast_dev_run"]
    changes: dict[str, Any] = {}
    for phase in TRAINED:
        group = parameters.get(phase)
        if isinstance(group, Mapping):  # what is wrong with it is told when the whole tree is checked
            epochs = group.get("epochs")
            shortened = {"epochs": min(DEV_EPOCHS, epochs)} if is_count(epochs) else {}
            changes[phase] = {"steps_per_epoch": steps, **shortened}
    if COMPRESS in changes:
        changes[COMPRESS] |= {"recovery_epochs": DEV_EPOCHS - 1, "growth_steps": steps}
    return changes


def _has_own_corpora(layer: Mapping[str, Any]) -> bool:
    """Whether a layer gives corpora of the user's own to train on."""
    prepare = layer.get("prepare")
    corpora = prepare.get("corpora") if isinstance(prepare, Mapping) else None
    groups = corpora.values() if isinstance(corpora, Mapping) else ()
    return any(not isinstance(group, Mapping) or group.get("test_speakers") != "all" for group in groups)


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Layers merged group by group, the later over the earlier.

    Lists are replaced whole, and so is the architecture of an encoder by that of another `model_type`.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = merged.get(name)
            if isinstance(value, Mapping) and isinstance(before, Mapping) and not _is_other(value, before):
                merged[name] = _merge(before, value)
            else:
                merged[name] = deepcopy(value)
    return merged


def _is_other(architecture: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a group is the architecture of another kind of encoder."""
    return MODEL_TYPE in before and architecture.get(MODEL_TYPE, before[MODEL_TYPE]) != before[MODEL_TYPE]
