"""Recipes: parameter files that go over `conf/base` and under the environment's own parameters.

`kedro run --env=mini --params=recipe=mhfa_slt22` takes what is trained from the recipe, and how much of it
from the environment. What `--params` gives goes over both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from speaker_verification.errors import ParameterError

RECIPES = "recipes"  # their folder, beside the environments
PHASES = ("pretrain", "finetune", "lmft")
QUICK_EPOCHS = 2  # the second goes on from the first: what happens between epochs is tried as well


class RecipeConfigLoader(OmegaConfigLoader):
    """Kedro's loader, with the chosen recipe as one more layer of the parameters.

    The parameter `recipe` names a file of the folder RECIPES; `quick_check` shortens every phase. Credentials
    are those of conf/local whatever the environment, whose own go over them.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key == "credentials" and key not in self.data:
            return self._read_credentials()
        if key != "parameters" or key in self.data:
            return super().__getitem__(key)
        base = self._read_layer(self.base_env, self.config_patterns[key])
        env = self.env or self.default_run_env
        own = {} if env == self.base_env else self._read_layer(env, self.config_patterns[key])
        merged = _merge(base, self._read_recipe(_merge(base, own)["recipe"]), own)
        if merged.get("quick_check"):
            merged = _merge(merged, quick_phases(merged), self.runtime_params)
        return merged

    def _read_layer(self, folder: str, patterns: list[str]) -> dict[str, Any]:
        """Parameters of a folder, under those of the command line."""
        path = self._get_conf_env_path(folder)
        return self.load_and_merge_dir_config(path, patterns, "parameters", processed_files=set())

    def _read_credentials(self) -> dict[str, Any]:
        """Credentials by group; the group `download`, which the catalog names, is there if only empty."""
        folders = dict.fromkeys([self.base_env, self.default_run_env, self.env or self.base_env])
        paths = [path for folder in folders if Path(path := self._get_conf_env_path(folder)).is_dir()]
        patterns = self.config_patterns["credentials"]
        layers = [
            self.load_and_merge_dir_config(
                path, patterns, "credentials", set(), read_environment_variables=True
            )
            for path in paths
        ]
        return _merge({"download": {}}, *layers)

    def _read_recipe(self, name: str) -> dict[str, Any]:
        """Parameters of a recipe, over those of the one that it names as `based_on`."""
        recipe = self._read_layer(RECIPES, [self._recipe_file(name)])
        parent = recipe.pop("based_on", None)
        return _merge(self._read_recipe(parent), recipe) if parent else recipe

    def _recipe_file(self, name: str) -> str:
        paths = self._fs.glob(f"{Path(self._get_conf_env_path(RECIPES)).as_posix()}/*.yml")
        files = {Path(path).stem: Path(path).name for path in paths}
        if name not in files:
            nearest = difflib.get_close_matches(str(name), files, n=1, cutoff=0.0)
            hint = f": did you mean '{nearest[0]}'?" if nearest else ""
            raise ParameterError(f"parameter 'recipe' is '{name}', which conf/{RECIPES} does not hold{hint}")
        return files[name]


def quick_phases(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The changes by which every phase takes a few steps only.

    Args:
        parameters: the whole tree; `quick_check` of it is the steps of an epoch.
    """
    return {
        phase: {
            "steps_per_epoch": parameters["quick_check"],
            "epochs": min(QUICK_EPOCHS, parameters[phase]["epochs"]),
        }
        for phase in PHASES
    }


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    merged: Any = OmegaConf.to_container(OmegaConf.merge(*layers))
    return merged
