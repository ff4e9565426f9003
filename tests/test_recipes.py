from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from speaker_verification.errors import ParameterError
from speaker_verification.recipes import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS

BASE = {
    "recipe": "published",
    "quick_check": None,
    "model": {"kind": "lap", "heads": 16, "width": 512},
    "pretrain": {"epochs": 40, "steps_per_epoch": None, "crop_seconds": 2},
    "finetune": {"epochs": 10, "steps_per_epoch": None},
    "lmft": {"epochs": 1, "steps_per_epoch": None},
}
MHFA = {"model": {"kind": "mhfa", "heads": 32}, "finetune": {"epochs": 15}}
TINY = {"model": {"heads": 4}, "pretrain": {"epochs": 3}}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for file, values in {
        "base/parameters.yml": BASE,
        "recipes/published.yml": {},
        "recipes/mhfa.yml": MHFA,
        "tiny/parameters.yml": TINY,
        "local/parameters.yml": {},
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(yaml.safe_dump(values) if values else "# nothing to change\n")
    return tmp_path


def parameters(conf: Path, env: str | None = None, **given: Any) -> dict[str, Any]:
    loader = RecipeConfigLoader(str(conf), env, given, **CONFIG_LOADER_ARGS)  # type: ignore[arg-type]
    return loader["parameters"]


def test_the_default_recipe_changes_nothing(conf: Path) -> None:
    assert parameters(conf) == BASE


def test_a_recipe_goes_over_the_base_under_the_environment_and_the_command_line(conf: Path) -> None:
    chosen = parameters(conf, recipe="mhfa")
    assert chosen["recipe"] == "mhfa"
    assert chosen["model"] == {"kind": "mhfa", "heads": 32, "width": 512}
    assert chosen["finetune"] == {"epochs": 15, "steps_per_epoch": None}
    shrunk = parameters(conf, "tiny", recipe="mhfa")
    assert shrunk["model"] == {"kind": "mhfa", "heads": 4, "width": 512}
    assert shrunk["pretrain"]["epochs"] == 3
    given = parameters(conf, "tiny", recipe="mhfa", model={"heads": 8})
    assert given["model"]["heads"] == 8


def test_an_environment_may_choose_its_recipe_and_the_command_line_another(conf: Path) -> None:
    (conf / "tiny/parameters.yml").write_text(yaml.safe_dump({**TINY, "recipe": "mhfa"}))
    assert parameters(conf, "tiny")["model"]["kind"] == "mhfa"
    assert parameters(conf, "tiny", recipe="published")["model"]["kind"] == "lap"
    assert parameters(conf, "base", recipe="mhfa")["model"]["heads"] == 32


def test_an_unknown_recipe_is_refused_with_the_nearest_one(conf: Path) -> None:
    with pytest.raises(ParameterError, match=r"^parameter 'recipe' is 'mfha', .*did you mean 'mhfa'\?$"):
        parameters(conf, recipe="mfha")


def test_quick_check_shortens_every_phase_but_not_what_the_command_line_says(conf: Path) -> None:
    quick = parameters(conf, recipe="mhfa", quick_check=5, finetune={"epochs": 7})
    assert quick["pretrain"] == {"epochs": 2, "steps_per_epoch": 5, "crop_seconds": 2}
    assert quick["finetune"] == {"epochs": 7, "steps_per_epoch": 5}
    assert quick["lmft"] == {"epochs": 1, "steps_per_epoch": 5}
