"""A project whose phases train nothing, with real configuration, catalog, hooks and runners."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro.runner.runner import AbstractRunner
from mlflow.entities import Run, ViewType

from speaker_verification.common.tables import UTTERANCES
from speaker_verification.config.phases import EMBED_WORKSPACE
from speaker_verification.hooks.resume import InterruptedPhaseHook
from speaker_verification.hooks.tracking import PhaseTracker, TrackingHook, TrackingSettings, begin
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.training.kept_epochs import RANKING_FILE, RUN_FILE
from speaker_verification.training.resume import resume_path
from tests.support.hooks import context_of

EXPERIMENT = "speaker-verification-demo"
EPOCHS = 2
WEIRD = "it's 100% a?b#c"  # folder with all that addresses escape


class Project:
    """A project with real configuration, catalog, hooks and runners, and nodes that train nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def moved(self, folder: Path) -> Project:
        shutil.move(self.folder, folder)
        return Project(folder)

    def run(
        self,
        *nodes: Node,
        runner: AbstractRunner | None = None,
        env: str | None = "tiny",
        **parameters: Any,
    ) -> None:
        manager = _create_hook_manager()
        for hook in (TrackingHook(), InterruptedPhaseHook()):
            manager.register(hook)
        context = context_of(self.folder, manager, env, parameters)
        catalog = context._get_catalog(save_version=f"{time.time_ns()}")
        pipeline = Pipeline(nodes)
        told = {"pipeline": pipeline, "catalog": catalog, "run_params": {}}
        manager.hook.before_pipeline_run(**told)
        try:
            result = (runner or SequentialRunner()).run(pipeline, catalog, manager)
        except Exception as error:
            manager.hook.on_pipeline_error(error=error, **told)
            raise
        manager.hook.after_pipeline_run(run_result=result, **told)

    @property
    def uri(self) -> str:
        settings = TrackingSettings(tracking_uri="sqlite:///mlflow.db", experiment=EXPERIMENT)
        return settings.in_project(self.folder).tracking_uri

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, self.uri)

    def runs(self, stage: str | None = None, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """The oldest first."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        found = self.client.search_runs([experiment.experiment_id], run_view_type=view)
        of_stage = [run for run in found if stage in (None, run.data.tags["stage"])]
        return sorted(of_stage, key=lambda run: run.info.start_time)

    def run_of(self, stage: str) -> Run:
        (run,) = self.runs(stage)
        return run

    def artifacts(self, run: Run) -> set[str]:
        return {file.path for file in self.client.list_artifacts(run.info.run_id)}

    def epochs(self, run: Run) -> list[int]:
        return [point.step for point in self.client.get_metric_history(run.info.run_id, "training/loss")]


def train(
    phase: str, workspace: Path, *_: Any, after_epoch: Callable[[int], None] = lambda _: None
) -> tuple[pd.DataFrame, Path]:
    """Stand-in of `train_phase`, without the training."""
    folder = workspace / "checkpoint"
    (folder / "epoch_01").mkdir(parents=True, exist_ok=True)
    begin(phase)
    rows = []
    for epoch in range(EPOCHS + 1):
        rows.append({"epoch": epoch, "metric": "loss", "value": 4.0 - epoch})
        PhaseTracker(phase).log_epoch(epoch, {"loss": 4.0 - epoch})
        resume_path(folder).write_text("")
        after_epoch(epoch)
    (folder / "epoch_01" / RUN_FILE).write_text(json.dumps({"tracking": PhaseTracker(phase).ids}))
    (folder / RANKING_FILE).write_text(json.dumps([{"epoch": 1, "folder": "epoch_01", "eer": 1.0}]))
    return pd.DataFrame(rows), folder


def training(phase: str = "pretrain", start: str | None = None, function: Any = train, **how: Any) -> Node:
    return Node(
        partial(function, phase, **how),
        inputs=[f"{phase}.workspace", *([start] if start else [])],
        outputs=[f"{phase}.learning_curve", f"{phase}.checkpoint"],
        name="train_phase",
        namespace=phase,
    )


def embedding() -> Node:
    def embed(*_: Any) -> EmbeddingStore:
        begin("evaluate")
        table = UTTERANCES.empty()
        return EmbeddingStore(np.zeros((0, 2), np.float32), table)

    inputs = ["lmft.checkpoint", EMBED_WORKSPACE]
    return Node(embed, inputs, "embeddings", name="embed_trial_utterances", tags="evaluation")


def measuring(eer: float, needs: str = "embeddings") -> Node:
    return Node(
        lambda *_: {"vox1_o": {"cosine": {"eer": eer, "num_target": 7}}},
        needs,
        "metrics",
        name="measure_error_rates",
        tags="evaluation",
    )


ROAD = (("pretrain", None), ("finetune", "pretrain.checkpoint"), ("lmft", "finetune.checkpoint"))


def road(**how: Any) -> list[Node]:
    return [training(phase, start, **how) for phase, start in ROAD]


def lines_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name.startswith("speaker_verification")
    ]
