"""`mlflow models serve` on loopback, and the memory of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import requests

from tests.support.processes import free_port
from tests.support.waiting import wait_until


class Memory(NamedTuple):
    """Resident memory of all processes of a server in MB: now, and at the peak of each."""

    now: float
    peak: float


class ModelServer:
    """A served model, ready within the `with` block.

    Args:
        uri: model of MLflow.
        options: further options of `mlflow models serve`.
        variables: environment variables.
    """

    def __init__(self, uri: str, *options: str, **variables: str) -> None:
        port = str(free_port())
        self.address = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, "--port", port),
            *("--env-manager", "local", *options),
        ]
        self._environment = os.environ | variables

    def __enter__(self) -> ModelServer:
        self._log = TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(self._is_ready, seconds=240)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            self._log.seek(0)
            raise ChildProcessError(self._log.read().decode()[-2000:])
        try:
            return requests.get(f"{self.address}/ping", timeout=5).ok
        except requests.RequestException:
            return False

    def post(self, body: bytes | str, content_type: str = "application/json") -> requests.Response:
        """Response to any body."""
        headers = {"Content-Type": content_type}
        return requests.post(f"{self.address}/invocations", data=body, headers=headers, timeout=600)

    def answers(self, *rows: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
        """Answers to rows.

        Raises:
            HTTPError: the status is not 200.
        """
        body = {"dataframe_records": rows, "params": params}
        response = requests.post(f"{self.address}/invocations", json=body, timeout=600)
        response.raise_for_status()
        return response.json()["predictions"]

    def memory(self) -> Memory:
        """Memory of the process that was started and of all below it."""
        sizes = [_sizes(process) for process in Path("/proc").glob("[0-9]*") if self._is_ours(process)]
        return Memory(*map(sum, zip(*sizes, strict=True)))

    def _is_ours(self, process: Path) -> bool:
        try:
            return os.getsid(int(process.name)) == self._process.pid
        except ProcessLookupError:
            return False


def _sizes(process: Path) -> tuple[float, float]:
    lines = (process / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, peak = (int(fields.get(name, "0 kB").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak
