"""Runs in the MLflow database of a test project."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.entities import Run


def client_of(folder: Path) -> mlflow.MlflowClient:
    """Client of a project's database."""
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs_of(folder: Path) -> list[Run]:
    """All runs of the demo's experiment, the newest first."""
    client = client_of(folder)
    experiment = client.get_experiment_by_name("speaker-verification-demo")
    assert experiment is not None
    order = ["attributes.start_time DESC"]
    return list(client.search_runs([experiment.experiment_id], order_by=order))
