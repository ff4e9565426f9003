"""Addresses of runs in MLflow's pages."""

from __future__ import annotations

from pathlib import Path

from speaker_verification.hooks.tracking.store import Store

LIST = "/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=error-rates"


def test_a_database_is_served_on_this_machine(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/my runs.db", "x")
    assert store.server_command() == f"mlflow ui --workers 1 --backend-store-uri '{store.uri}'"
    assert store.page("3") == f"http://127.0.0.1:5000{LIST}"
    assert (
        store.page("3", "ab12")
        == "http://127.0.0.1:5000/#/experiments/3/runs/ab12?workflowType=machine_learning"
    )


def test_a_server_has_its_own_address_and_no_password_is_told() -> None:
    store = Store("https://ann:pa55@runs.example.org/mlflow/", "x")
    assert store.server_command() is None
    assert store.page("3") == f"https://runs.example.org/mlflow{LIST}"
    database = Store("postgresql://ann:pa55@db.example.org/mlflow", "x")
    assert "pa55" not in str(database.server_command())
