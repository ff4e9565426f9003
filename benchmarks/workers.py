"""Joined processes that take a step of their own whenever they are called."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from speaker_verification.common.distributed import joined_processes


class Workers:
    """Joined processes with one thread each; called, a step of all of them.

    Args:
        size: number of processes.
        build: function of a module that makes the step of one of them.
        *args: its arguments.
    """

    def __init__(self, size: int, build: Callable[..., Callable[[], object]], *args: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        for rank in range(size):
            here, there = context.Pipe()
            work = (rank, size, port, there, build, args)
            context.Process(target=_work, args=work, daemon=True).start()
            self._ends.append(here)

    def __call__(self) -> None:
        self.each(_take)

    def each(self, ask: Callable[[Any], Any]) -> list[Any]:
        """Answers of a function of a module to each process's step."""
        for end in self._ends:
            end.send(ask)
        return [end.recv() for end in self._ends]

    def stop(self) -> None:
        for end in self._ends:
            end.send(None)


def _take(step: Callable[[], object]) -> None:
    step()


def _work(
    rank: int, size: int, port: int, end: Connection, build: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_processes():
        step = build(*args)
        while ask := end.recv():
            end.send(ask(step))
