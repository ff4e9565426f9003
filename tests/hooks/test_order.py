"""The order of the checks before a run, whatever the order of registration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.config.tree import Parameters
from speaker_verification.hooks.checks import ChecksHook
from speaker_verification.hooks.locks import LockHook
from speaker_verification.pipeline_registry import register_pipelines
from tests.support.config import CONF, parameters


def checks(**given: Any) -> ChecksHook:
    hook = ChecksHook()
    for check in hook._checks:
        check._parameters = Parameters.parse(parameters(CONF, "mini", **given), "")
    return hook


class Last:
    """A hook that goes last, as tracking does."""

    def __init__(self) -> None:
        self.called = False

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        self.called = True


def start(checked: ChecksHook, pipeline: str = "pretrain", versions: dict[str, str] | None = None) -> None:
    last = Last()
    for order in itertools.permutations((LockHook(), checked, last)):
        manager = _create_hook_manager()
        for hook in order:
            manager.register(hook)
        try:
            manager.hook.before_pipeline_run(
                run_params={"load_versions": versions or {}, "pipeline_names": [pipeline]},
                pipeline=register_pipelines()[pipeline],
                catalog=DataCatalog({"params:device": MemoryDataset("cpu")}),
            )
        finally:
            assert not last.called


def test_an_absent_device_is_refused_before_an_absent_version_and_that_before_missing_inputs(
    tmp_path: Path,
) -> None:
    versions = {"encoder": "2020-01-01T00.00.00.000Z"}
    with pytest.raises(ParameterError, match=r"'device' is 'cuda:998'"):
        start(checks(device="cuda:998"), versions=versions)
    with pytest.raises(DataError, match=r"--load-versions: 'encoder'"):
        start(checks(), versions=versions)
    with pytest.raises(ParameterError, match=r"'embed\.model'"):
        start(checks(embed={"model": str(tmp_path / "no model")}), "evaluate")
    with pytest.raises(DataError, match=r"missing inputs: .*training_utterances"):
        start(checks())
