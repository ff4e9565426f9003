"""Locks of whole runs: allowed and refused side by side in one data root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import DataError
from speaker_verification.common.locks import hold
from speaker_verification.hooks.locks import LockHook, owned_paths
from speaker_verification.pipeline_registry import register_pipelines

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataCatalog:
    monkeypatch.chdir(tmp_path)
    loader = OmegaConfigLoader(str(CONF), base_env="base", default_run_env="demo")
    return DataCatalog.from_config(loader["catalog"], {"download": {}})


def test_a_run_owns_what_it_writes_and_works_in(pipelines: dict[str, Pipeline], catalog: DataCatalog) -> None:
    owned = {name: {str(path) for path in owned_paths(pipelines[name], catalog)} for name in pipelines}
    assert all(owned.values())
    models, encoders = "data/demo/06_models", "data/demo/01_raw/encoders"
    assert owned["lmft"] == {
        f"{models}/lmft/{name}"
        for name in (
            "workspace",
            "workspace/checkpoint",
            "checkpoint",
            "learning_curve.parquet",
            "schedule.json",
        )
    }
    assert owned["pretrain"] - {f"{models}/encoder", encoders} == {
        path.replace("lmft", "pretrain") for path in owned["lmft"]
    }
    assert owned["export"] == {"data/demo/07_model_output/scores_text"}
    assert owned["download"] == {"data/demo/01_raw/mirror", encoders}
    assert "data/demo/01_raw/mirror" in owned["prepare"]
    assert {Path(path).parts[2] for path in owned["report"]} == {"08_reporting"}
    whole = owned["__default__"]
    for name in ("measure", "export", "report"):
        assert owned[name].isdisjoint(owned["lmft"] | owned["prepare"])
    assert owned["measure"].isdisjoint(whole)
    assert owned["embed"] | owned["score"] == owned["evaluate"] < whole
    assert len({Path(path).parent for path in whole}) < 16


class Refusal:
    """A hook that refuses whatever runs."""

    @hook_impl
    def before_pipeline_run(self) -> None:
        assert entries()
        raise DataError("not there yet")


def entries() -> list[Path]:
    return list(Path().rglob(".*.lock"))


def test_a_run_that_ends_or_is_refused_leaves_nothing_locked_and_no_empty_folders(
    pipelines: dict[str, Pipeline], catalog: DataCatalog
) -> None:
    manager = _create_hook_manager()
    manager.register(LockHook())
    run: dict[str, Any] = {"run_params": {}, "pipeline": pipelines["lmft"], "catalog": catalog}
    ends = (
        lambda: manager.hook.after_pipeline_run(run_result={}, **run),
        lambda: manager.hook.on_pipeline_error(error=ValueError(), **run),
    )
    for end in ends:
        manager.hook.before_pipeline_run(**run)
        assert len(entries()) == 2
        end()
        assert not list(Path().iterdir())
    manager.hook.before_pipeline_run(**run)  # and Ctrl-C: no hook is told
    manager.register(Refusal())
    with pytest.raises(DataError, match="not there yet"):
        manager.hook.before_pipeline_run(**run)
    assert not list(Path().iterdir())


def test_training_takes_no_second_lock_in_a_run(pipelines: dict[str, Pipeline], catalog: DataCatalog) -> None:
    manager = _create_hook_manager()
    manager.register(LockHook())
    run: dict[str, Any] = {"run_params": {}, "pipeline": pipelines["lmft"], "catalog": catalog}
    manager.hook.before_pipeline_run(**run)
    before = entries()
    hold([Path("data/demo/06_models/lmft/workspace/checkpoint")], "train").release()
    assert entries() == before
    manager.hook.after_pipeline_run(run_result={}, **run)
