"""A verifier as a model of MLflow: rows of recordings in, decisions out, and no pickle."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from speaker_verification import Verifier
from speaker_verification.audio.files import encode_audio
from speaker_verification.common.errors import DataError
from speaker_verification.pipelines.package import load_verifier
from speaker_verification.pipelines.package.mlflow_model import save_mlflow_model
from tests.support.verifiers import measured as measured
from tests.support.verifiers import voice


def file_of(speaker: int, utterance: int) -> bytes:
    return encode_audio((voice(speaker, utterance) * 32768).astype("int16"), "flac")


def encoded(speaker: int, utterance: int) -> str:
    return base64.b64encode(file_of(speaker, utterance)).decode()


@pytest.fixture(scope="module")
def folder(measured: tuple[Verifier, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    measured[0].save_pretrained(folder / "saved")
    save_mlflow_model(folder / "saved", folder / "model", Model())
    return folder / "model"


@pytest.fixture(scope="module")
def served(folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(folder))


def test_rows_are_answered_as_the_verifier_compares(served: Any, measured: tuple[Verifier, Any, Any]) -> None:
    verifier = measured[0]
    rows = pd.DataFrame(
        {
            "enrol": [[encoded(12, 0), encoded(12, 1)], [encoded(13, 0)]],
            "test": [encoded(12, 2), encoded(12, 0)],
        }
    )
    several, one = served.predict(rows)
    expected = verifier.compare([file_of(12, 0), file_of(12, 1)], file_of(12, 2)).to_dict()
    assert several["llr"] == pytest.approx(expected["llr"], abs=1e-5)
    assert several["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert several["error_rates"] == expected["error_rates"]
    assert (several["refused"], several["fingerprint"]) == (None, verifier.fingerprint)
    assert one["operating_point"]["p_target"] == 0.01
    (asked,) = served.predict(rows[1:], params={"p_target": 0.05, "prior": 0.5})
    assert (asked["operating_point"]["p_target"], asked["prior"]) == (0.05, 0.5)
    assert asked["llr"] == one["llr"]
    json.dumps(several, allow_nan=False)


def answer(served: Any, enrol: str) -> dict[str, Any]:
    (found,) = served.predict(pd.DataFrame({"enrol": [[enrol]], "test": [encoded(12, 0)]}))
    return found


def test_files_are_read_below_the_folder_that_the_operator_allows_and_nowhere_else(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "allowed").mkdir()
    for path in (tmp_path / "allowed" / "one.flac", tmp_path / "secret.flac"):
        path.write_bytes(file_of(12, 1))
    (tmp_path / "allowed" / "link.flac").symlink_to(tmp_path / "secret.flac")
    assert "only where SPEAKER_VERIFICATION_AUDIO" in answer(served, "path:one.flac")["message"]
    monkeypatch.setenv("SPEAKER_VERIFICATION_AUDIO", str(tmp_path / "allowed"))
    assert answer(served, "path:one.flac")["llr"] == answer(served, encoded(12, 1))["llr"]
    for outside in ("path:../secret.flac", f"path:{tmp_path}/secret.flac", "path:link.flac"):
        assert answer(served, outside)["refused"] == "unreadable"
    assert answer(served, "path:absent.flac")["refused"] == "unreadable"


def test_a_recording_that_is_refused_spoils_no_other_row(served: Any) -> None:
    rows = pd.DataFrame(
        {
            "enrol": [["###"], [""], [base64.b64encode(b"no audio").decode()], [encoded(12, 0)]],
            "test": [encoded(12, 1)] * 4,
        }
    )
    answers = served.predict(rows)
    assert [found["refused"] for found in answers] == ["unreadable", "empty", "undecodable", None]
    assert all(found["message"].startswith("enrol 1: ") for found in answers[:3])


def test_a_row_that_fails_for_no_known_reason_spoils_no_other_row(
    served: Any,
    measured: tuple[Verifier, Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = replace(measured[0], model=torch.nn.Identity())
    monkeypatch.setattr(served.unwrap_python_model(), "verifier", broken)
    rows = pd.DataFrame({"enrol": [encoded(12, 0), ""], "test": [encoded(12, 1)] * 2})
    failed, empty = served.predict(rows)
    assert (failed["refused"], empty["refused"]) == ("failed", "empty")
    assert "log" in failed["message"]
    assert "'Identity' object has no attribute" in caplog.text


def test_parameters_out_of_range_and_too_many_recordings_are_refused_as_bad_requests(served: Any) -> None:
    rows = pd.DataFrame({"enrol": [encoded(12, 0)], "test": [encoded(12, 1)]})
    for params in ({"p_target": 7.0}, {"prior": 1.0}, {"combining": "median"}):
        with pytest.raises(MlflowException, match=r"0 and 1|'median'") as refused:
            served.predict(rows, params=params)
        assert refused.value.get_http_status_code() == 400
    many = pd.DataFrame({"enrol": [["", ""]] * 334, "test": [""] * 334})
    with pytest.raises(MlflowException, match="1002 recordings in one request: send at most 1000") as refused:
        served.predict(many)
    assert refused.value.get_http_status_code() == 400
    assert len(served.predict(many[1:])) == 333


def test_the_example_has_the_signature_s_form_and_the_folder_no_pickle(folder: Path, served: Any) -> None:
    example = json.loads((folder / "input_example.json").read_text())
    (refused,) = served.predict(pd.DataFrame([example]))
    assert refused["refused"] == "too_short"
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin", ".pt")]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert {"torch==2.11.*", f"silero-vad=={version('silero-vad')}"} <= set(requirements)
    assert (folder / "code" / "speaker_verification" / "deployment" / "verifier.py").is_file()


def test_a_model_of_mlflow_is_loaded_as_a_verifier(folder: Path, measured: tuple[Verifier, Any, Any]) -> None:
    fingerprint = measured[0].fingerprint
    assert load_verifier(folder.as_uri()).fingerprint == fingerprint
    assert Verifier.from_pretrained(folder).fingerprint == fingerprint
    with pytest.raises(DataError, match=r"'models:/speaker@champion' is no folder: `load_verifier`"):
        Verifier.from_pretrained("models:/speaker@champion")
