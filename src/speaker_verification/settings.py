"""Kedro project settings."""

from __future__ import annotations

import os
import warnings

from speaker_verification.common.distributed import is_first_process
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.hooks.checks import ChecksHook
from speaker_verification.hooks.inputs import AnnouncementHook, JobsHook, OptionalInputsHook, PiecesHook
from speaker_verification.hooks.locks import LockHook
from speaker_verification.hooks.run_log import RunLogHook
from speaker_verification.hooks.tracking import TrackingHook

os.environ["KEDRO_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to a host of its own, whatever the server
# A dot in a dataset's name is the phase's namespace: "pretrain.checkpoint".
warnings.filterwarnings("ignore", message="One or more dataset names contain '.' characters")

DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow")  # where it is installed: one tracker is enough

# In any order: the lock wraps all others, the checks go first and tracking last; the log tells of a node, and
# of the run, when all others are through with it. Of several processes the first one does all of this.
HOOKS = (
    (LockHook(), ChecksHook(), JobsHook(), TrackingHook(), AnnouncementHook(), PiecesHook(), RunLogHook())
    if is_first_process()
    else (JobsHook(), OptionalInputsHook())
)

CONFIG_LOADER_CLASS = RecipeConfigLoader

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment that overrides one key of a group keeps the others.
    "merge_strategy": {"parameters": "soft", "catalog": "soft", "tracking": "soft", "globals": "soft"},
    "config_patterns": {"tracking": ["tracking*"]},
}
