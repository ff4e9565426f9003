"""Functions run by several processes that have joined each other, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from speaker_verification.common.distributed import joined_processes

LIMIT_SECONDS = 120


class Outcome(NamedTuple):
    """Result of one process: its value, or its error as a line, and its exit code."""

    value: Any
    error: str
    exit_code: int | None


def run_processes(size: int, function: Callable[..., Any], *args: Any) -> list[Outcome]:
    """Outcomes of `function(*args)` in joined processes, by rank.

    Args:
        size: number of processes.
        function: function of a module.
        *args: its arguments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.training"])
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        running = [
            context.Process(target=_run_one, args=(rank, size, port, Path(folder), function, args))
            for rank in range(size)
        ]
        for process in running:
            process.start()
        outcomes = []
        for rank, process in enumerate(running):
            process.join(LIMIT_SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join()
            file = Path(folder) / str(rank)
            value, error = pickle.loads(file.read_bytes()) if file.exists() else (None, "")
            outcomes.append(Outcome(value, error, process.exitcode))
    return outcomes


def free_port() -> int:
    """Port of loopback on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def values_of(outcomes: list[Outcome]) -> list[Any]:
    """Values of processes, all of which must have ended well."""
    assert [outcome.exit_code for outcome in outcomes] == [0] * len(outcomes), [o.error for o in outcomes]
    return [outcome.value for outcome in outcomes]


def _run_one(
    rank: int, size: int, port: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    torch.set_num_threads(1)
    value, error = None, ""
    try:
        with joined_processes():
            value = function(*args)
    except BaseException as caught:
        error = f"{type(caught).__name__}: {caught}"
        raise
    finally:
        (folder / str(rank)).write_bytes(pickle.dumps((value, error)))
