"""A verifier that MLflow serves: many requests at once, bad requests, and limits."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification import Verifier
from speaker_verification.pipelines.package.mlflow_model import log_verifier
from tests.support.model_server import ModelServer
from tests.support.verifiers import TEST_SPEAKERS, UTTERANCES_EACH, Measured, voice
from tests.support.verifiers import measured as measured

COMPARED = ("llr", "probability")
REFUSED_ROW = {"enrol": "", "test": ""}  # without a byte


class Service(NamedTuple):
    """A served verifier.

    Attributes:
        server: MLflow's server of the registered model.
        verifier: the verifier itself.
        audio: folder whose files may be named.
        tracking: address of the store in which it is registered.
    """

    server: ModelServer
    verifier: Verifier
    audio: Path
    tracking: str


@pytest.fixture(scope="module")
def service(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A verifier logged, registered and served as a user does."""
    folder = tmp_path_factory.mktemp("service")
    tracking = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking)
    experiment = client.create_experiment("speech", (folder / "mlartifacts").as_uri())
    verifier = measured[0]
    verifier.save_pretrained(folder / "verifier")
    run_id = client.create_run(experiment).info.run_id
    log_verifier(client, run_id, folder / "verifier", "speaker", "champion", {})
    audio = folder / "audio"
    audio.mkdir()
    variables = {"MLFLOW_TRACKING_URI": tracking, "SPEAKER_VERIFICATION_AUDIO": str(audio)}
    with ModelServer("models:/speaker@champion", "--timeout", "600", **variables) as server:
        yield Service(server, verifier, audio, tracking)


def file_of(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """WAV file of samples (samples,) or (samples, channels)."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV")
    return stream.getvalue()


def encoded(file: bytes) -> str:
    return base64.b64encode(file).decode()


VOICES = [
    file_of(voice(speaker, utterance)) for speaker in TEST_SPEAKERS for utterance in range(UTTERANCES_EACH)
]
GOOD_ROW = {"enrol": [encoded(VOICES[0])], "test": encoded(VOICES[1])}


def assert_equal(answer: dict[str, Any], verifier: Verifier, enrol: Any, test: Any) -> None:
    """Compare an answer with the verifier's own."""
    expected = verifier.compare(enrol, test).to_dict()
    assert (answer["refused"], answer["accept"]) == (None, expected["accept"])
    assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    for name in COMPARED:
        assert answer[name] == pytest.approx(expected[name], abs=1e-4)


def assert_answers(service: Service) -> None:
    """Ask the service for an answer to a good row, as all is well."""
    (answer,) = service.server.answers(GOOD_ROW)
    assert_equal(answer, service.verifier, VOICES[0], VOICES[1])


def test_a_hundred_requests_at_once_are_answered_as_the_verifier_compares(service: Service) -> None:
    pairs = [(VOICES[number % 20], VOICES[(number // 20 + 3 * number) % 20]) for number in range(100)]

    def ask(pair: tuple[bytes, bytes]) -> dict[str, Any]:
        (answer,) = service.server.answers({"enrol": [encoded(pair[0])], "test": encoded(pair[1])})
        return answer

    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(ask, pairs))
    for pair, answer in zip(pairs, answers, strict=True):
        assert_equal(answer, service.verifier, *pair)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "valid JSON"),
        (b'{"dataframe_records": [', "valid JSON"),
        (b"\xff\xfe\x00", "valid JSON"),
        ("[]", "Received a list"),
        ("{}", "exactly one of the input fields"),
        ('{"dataframe_records": 5}', "must be a list of records"),
        ('{"dataframe_records": []}', "missing inputs ['enrol', 'test']"),
        ('{"dataframe_records": [{"enrol": ["UklGRg=="]}]}', "missing inputs ['test']"),
        ('{"dataframe_records": [5, "UklGRg=="]}', "missing inputs ['enrol', 'test']"),
        (json.dumps({"dataframe_records": [GOOD_ROW], "params": {"p_target": 7}}), "between 0 and 1"),
        (json.dumps({"dataframe_records": [GOOD_ROW], "params": {"prior": 1}}), "between 0 and 1"),
        (json.dumps({"dataframe_records": [GOOD_ROW], "params": {"p_target": "x"}}), "p_target"),
        (json.dumps({"dataframe_records": [GOOD_ROW], "params": {"combining": "x"}}), "best, top_k_mean"),
        (json.dumps({"dataframe_records": [REFUSED_ROW] * 501}), "1002 recordings in one request"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_with_the_reason(
    service: Service, body: bytes | str, named: str
) -> None:
    response = service.server.post(body)
    assert response.status_code == 400
    assert named in response.json()["message"]
    assert "Traceback" not in response.text
    assert_answers(service)


def test_recordings_that_are_refused_leave_the_other_rows_their_answers(service: Service) -> None:
    audio = service.audio
    for path in (audio / "voice.wav", audio.parent / "secret.wav"):
        path.write_bytes(VOICES[2])
    (audio / "link.wav").symlink_to(audio.parent / "secret.wav")
    (audio / "loop.wav").symlink_to(audio / "loop.wav")
    refused = {
        "": "empty",
        "no base64 at all": "unreadable",
        "é": "unreadable",
        encoded(b"no audio, whatever its length" * 9): "undecodable",
        encoded(VOICES[3][:40]): "undecodable",
        encoded(file_of(voice(12, 0)[:3200])): "too_short",
        encoded(file_of(np.zeros(16_000))): "silent",
        "path:../secret.wav": "unreadable",
        f"path:{audio.parent}/secret.wav": "unreadable",
        "path:link.wav": "unreadable",
        "path:loop.wav": "unreadable",
        "path:absent.wav": "unreadable",
        "path:": "unreadable",
        "path:\0": "unreadable",
        f"path:{'a' * 5000}": "unreadable",
    }
    of_other_types: list[Any] = [5, 1.5, True, None, [], {}, [None], [["UklGRg=="]], {"a": "b"}]
    rows = [
        GOOD_ROW,
        *({"enrol": [GOOD_ROW["enrol"][0], recording], "test": GOOD_ROW["test"]} for recording in refused),
        *({"enrol": value, "test": GOOD_ROW["test"]} for value in of_other_types),
        *({"enrol": GOOD_ROW["enrol"], "test": value} for value in of_other_types),
        {"enrol": GOOD_ROW["enrol"]},
        GOOD_ROW,
    ]
    first, *others, last = service.server.answers(*rows)
    for answer in (first, last):
        assert_equal(answer, service.verifier, VOICES[0], VOICES[1])
    assert [answer["refused"] for answer in others[: len(refused)]] == list(refused.values())
    assert all(answer["message"].startswith("enrol 2: ") for answer in others[: len(refused)])
    assert {answer["refused"] for answer in others[len(refused) :]} == {"unreadable"}
    assert str(audio) not in json.dumps(others)
    (allowed,) = service.server.answers({"enrol": "path:voice.wav", "test": GOOD_ROW["test"]})
    assert_equal(allowed, service.verifier, VOICES[2], VOICES[1])


def test_recordings_of_other_rates_channels_and_lengths_are_answered(service: Service) -> None:
    rng = np.random.default_rng(8)
    ten_minutes = np.tile(voice(13, 0), 1000)[: 600 * 16_000]
    recordings = [
        file_of(voice(12, 1)[::2], 8_000),
        file_of(np.stack([voice(12, 2), 0.5 * voice(12, 2)], axis=1)),
        file_of(ten_minutes + 0.01 * rng.normal(size=len(ten_minutes))),
    ]
    rows = [{"enrol": encoded(recording), "test": GOOD_ROW["test"]} for recording in recordings]
    for recording, answer in zip(recordings, service.server.answers(*rows), strict=True):
        assert_equal(answer, service.verifier, recording, VOICES[1])


def test_a_long_list_of_rows_keeps_nobody_waiting(service: Service) -> None:
    with ThreadPoolExecutor(1) as client:
        long = client.submit(service.server.answers, *[GOOD_ROW] * 60)
        assert_answers(service)
        assert not long.done()
        assert len(long.result()) == 60
    assert len(service.server.answers(*[REFUSED_ROW] * 500)) == 500
    assert_answers(service)


def test_a_dockerfile_is_written_with_the_model_beside_it(service: Service, tmp_path: Path) -> None:
    command = [
        "models",
        "generate-dockerfile",
        "-m",
        "models:/speaker@champion",
        "-d",
        str(tmp_path / "image"),
    ]
    subprocess.run(
        [sys.executable, "-m", "mlflow", *command],
        env=os.environ | {"MLFLOW_TRACKING_URI": service.tracking},
        check=True,
    )
    dockerfile = (tmp_path / "image/Dockerfile").read_text()
    assert "COPY model_dir /opt/ml/model" in dockerfile
    model = mlflow.pyfunc.load_model(str(tmp_path / "image/model_dir"))
    (answer,) = model.predict(pd.DataFrame([GOOD_ROW]))
    assert_equal(answer, service.verifier, VOICES[0], VOICES[1])
