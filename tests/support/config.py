"""The project's parameters, as the loader composes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"
_KEPT: dict[tuple[str | None, str], dict[str, Any]] = {}


def parameters(conf: Path, env: str | None = None, **given: Any) -> dict[str, Any]:
    """Parameters of a folder of configuration; the project's own, which take long to compose, are kept."""
    if conf != CONF:
        return _loaded(conf, env, given)
    key = (env, repr(given))
    if key not in _KEPT:
        _KEPT[key] = _loaded(conf, env, given)
    return deepcopy(_KEPT[key])


def _loaded(conf: Path, env: str | None, given: dict[str, Any]) -> dict[str, Any]:
    loader = RecipeConfigLoader(str(conf), env, given, **CONFIG_LOADER_ARGS)  # type: ignore[arg-type]
    return loader["parameters"]
