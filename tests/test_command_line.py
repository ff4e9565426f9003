"""Entry point of `speaker-verification`: models of MLflow by their URI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mlflow.models import Model

from speaker_verification.command_line import main
from speaker_verification.pipelines.package.mlflow_model import save_mlflow_model
from tests.support.verifiers import Measured, voice
from tests.support.verifiers import measured as measured


@pytest.fixture
def recording(tmp_path: Path) -> str:
    samples = np.concatenate([voice(12, 0), voice(12, 1)])
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    return str(tmp_path / "a.wav")


def test_a_model_of_mlflow_compares_as_its_folder_does(
    measured: Measured, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured[0].save_pretrained(tmp_path / "verifier")
    save_mlflow_model(tmp_path / "verifier", tmp_path / "model", Model())
    arguments = ["verify", recording, recording, "--json", "--device", "cpu", "--least-speech-seconds", "0"]
    printed = []
    for model in (tmp_path / "verifier", (tmp_path / "model").as_uri()):
        assert main([*arguments, "--model", str(model)]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["fingerprint"] == measured[0].fingerprint


def test_a_model_that_is_not_registered_is_refused(
    recording: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["verify", recording, recording, "--model", "models:/nobody/1", "--device", "cpu"]) == 2
    assert "--model models:/nobody/1 cannot be loaded" in capsys.readouterr().err.splitlines()[-1]
