"""Kedro project settings."""

from __future__ import annotations

import os

from speaker_verification.hooks import InputsHook, ParametersHook
from speaker_verification.tracking import TrackingHook

os.environ["KEDRO_DISABLE_TELEMETRY"] = "1"

HOOKS = (TrackingHook(), InputsHook(), ParametersHook())  # the last one is called first

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment that overrides one key of a group keeps the others.
    "merge_strategy": {"parameters": "soft", "catalog": "soft", "mlflow": "soft", "globals": "soft"},
    "config_patterns": {"mlflow": ["mlflow*"]},
}
