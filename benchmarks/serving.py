"""Requests lost, seconds and memory of a verifier that `mlflow models serve` serves.

    python -m benchmarks.serving MODEL [--clients 100] [--rounds 10] [--workers 1]

MODEL is the folder of a verifier, or a URI of MLflow. Rounds of requests with pairs of recordings of one
length: of 1 s, of 7 s and of 30 s by all clients at once, of ten minutes by a single client. The recordings
are swelling tones in noise, which a limit on speech refuses; of a folder it is lifted.
"""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests
from benchmarks.timing import say
from mlflow.models import Model
from tests.support.model_server import ModelServer
from tests.support.recordings import babble

from speaker_verification.audio.files import encode_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.pipelines.package.mlflow_model import save_mlflow_model

TEN_MINUTES = 600
LENGTHS = (1, 7, 30, TEN_MINUTES)  # s


def main() -> None:
    arguments = _parse()
    recordings = {seconds: _recording(seconds) for seconds in LENGTHS}
    options = ("--timeout", "3600", "--workers", str(arguments.workers))
    with _model(arguments.model) as model, ModelServer(model, *options) as server:
        start = server.memory()
        say(f"{arguments.workers} workers; {start.now:.0f} MB before the first request")
        say("round  length    requests  lost   median s   95 % s   memory now and at the peak, MB")
        for number in range(1, arguments.rounds + 1):
            for seconds, recording in recordings.items():
                clients = 1 if seconds == TEN_MINUTES else arguments.clients
                _measure(server, recording, clients, f"{number:5}  {seconds:5g} s")


def _measure(server: ModelServer, recording: str, clients: int, label: str) -> None:
    """Send a request of each client at once, and print what came of them."""

    def ask(_: int) -> tuple[bool, float]:
        started = time.perf_counter()
        try:
            (answer,) = server.answers({"enrol": recording, "test": recording})
        except requests.RequestException:
            return False, time.perf_counter() - started
        return answer["refused"] is None, time.perf_counter() - started

    with ThreadPoolExecutor(clients) as pool:
        answered, seconds = zip(*pool.map(ask, range(clients)), strict=True)
    median, tail = np.quantile(seconds, [0.5, 0.95])
    memory = server.memory()
    lost = clients - sum(answered)
    say(f"{label} {clients:11} {lost:5} {median:10.2f} {tail:8.2f}   {memory.now:8.0f} {memory.peak:8.0f}")


def _recording(seconds: float) -> str:
    """A WAV file in base64."""
    tones = np.resize(babble(1.0, SAMPLE_RATE)[0], round(seconds * SAMPLE_RATE))
    samples = np.clip(tones, -1, 1) * 32767
    return base64.b64encode(encode_audio(samples.astype(np.int16), "wav")).decode()


@contextmanager
def _model(given: str) -> Iterator[str]:
    """Model of MLflow, made of a verifier's folder where one is given."""
    if not Path(given).is_dir():
        yield given
        return
    verifier = Verifier.from_pretrained(given)
    limits = verifier.settings.limits.model_copy(update={"least_speech_seconds": 0.0})
    settings = verifier.settings.model_copy(update={"limits": limits})
    with TemporaryDirectory() as folder:
        replace(verifier, settings=settings).save_pretrained(Path(folder, "verifier"))
        save_mlflow_model(Path(folder, "verifier"), Path(folder, "model"), Model())
        yield str(Path(folder, "model"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
