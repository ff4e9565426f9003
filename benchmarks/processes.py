"""A training step of two processes with one thread each beside one process with two threads.

    python -m benchmarks.processes [--batch 8] [--seconds 2] [--joint] [--large] [--rounds 5]

Random weights of WavLM's size, frozen unless --joint; gloo on one host. Both ways have the same batch and
take turns in one run; the one that does not have its turn waits without computing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
from multiprocessing.connection import Connection
from typing import Any

import torch
from benchmarks.timing import interleaved_seconds, parser_of, say
from benchmarks.training_step import Step

from speaker_verification.common.distributed import joined_processes
from speaker_verification.models.batch_statistics import share_batch_statistics
from speaker_verification.training.exchange import GradientExchange

NUM_PROCESSES = 2


class Workers:
    """Joined processes; called, a step of all of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        for rank in range(NUM_PROCESSES):
            here, there = context.Pipe()
            context.Process(target=_work, args=(rank, port, there, arguments), daemon=True).start()
            self._ends.append(here)
        self.megabytes, *_ = [end.recv() for end in self._ends]

    def __call__(self) -> None:
        for end in self._ends:
            end.send(True)
        for end in self._ends:
            end.recv()

    def stop(self) -> None:
        for end in self._ends:
            end.send(False)


def _work(rank: int, port: int, end: Connection, arguments: argparse.Namespace) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(NUM_PROCESSES), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_processes():
        arguments.batch //= NUM_PROCESSES
        step = Step(arguments, direct=False)
        share_batch_statistics(step.model)
        groups: list[dict[str, Any]] = step.optimiser.param_groups
        exchange = GradientExchange([parameter for group in groups for parameter in group["params"]])
        step.optimiser.register_step_pre_hook(lambda *_: exchange.average())
        end.send(exchange.megabytes)
        while end.recv():
            step()
            end.send(None)


def main() -> None:
    parser = parser_of(__doc__, rounds=5, larger="WavLM-Large instead of Base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--joint", action="store_true", help="train the encoder too, as phase 2 does")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workers, alone = Workers(arguments), Step(arguments, direct=False)
    ways = {"one": (alone,), "two": (workers,)}
    seconds = interleaved_seconds(ways, arguments.rounds, torch.device(arguments.device))
    workers.stop()
    one, two = seconds["one"][0], seconds["two"][0]
    say(f"{arguments.batch} crops of {arguments.seconds} s a step; median of {arguments.rounds}")
    say(f"one process, {arguments.threads} threads: {one:.3f} s a step")
    say(f"{NUM_PROCESSES} processes, one thread each: {two:.3f} s a step, {one / two:.2f} x the throughput")
    say(f"gradients exchanged: {workers.megabytes:.1f} MB a step")


if __name__ == "__main__":
    main()
