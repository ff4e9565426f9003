"""The project's parameters, as the loader composes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"


def parameters(conf: Path, env: str | None = None, **given: Any) -> dict[str, Any]:
    loader = RecipeConfigLoader(str(conf), env, given, **CONFIG_LOADER_ARGS)  # type: ignore[arg-type]
    return loader["parameters"]
