"""A training step of two processes with one thread each beside one process with two threads.

    python -m benchmarks.processes [--batch 8] [--seconds 2] [--joint] [--large] [--rounds 5]

Random weights of WavLM's size, frozen unless --joint; gloo on one host. Both ways have the same batch and
take turns in one run; the one that does not have its turn waits without computing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from benchmarks.timing import interleaved_seconds, parser_of, say
from benchmarks.training_step import Step
from benchmarks.workers import Workers

from speaker_verification.models.batch_statistics import share_batch_statistics
from speaker_verification.training.exchange import GradientExchange

NUM_PROCESSES = 2


class SharedStep(Step):
    """This process's share of a step.

    Attributes:
        exchange: of the gradients, before the optimiser's step.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        arguments.batch //= NUM_PROCESSES
        super().__init__(arguments, direct=False)
        share_batch_statistics(self.model)
        groups: list[dict[str, Any]] = self.optimiser.param_groups
        self.exchange = GradientExchange([parameter for group in groups for parameter in group["params"]])
        self.optimiser.register_step_pre_hook(lambda *_: self.exchange.average())


def _megabytes(step: SharedStep) -> float:
    return step.exchange.megabytes


def main() -> None:
    parser = parser_of(__doc__, rounds=5, larger="WavLM-Large instead of Base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--joint", action="store_true", help="train the encoder too, as phase 2 does")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workers, alone = Workers(NUM_PROCESSES, SharedStep, arguments), Step(arguments, direct=False)
    megabytes = workers.each(_megabytes)[0]
    ways = {"one": (alone,), "two": (workers,)}
    seconds = interleaved_seconds(ways, arguments.rounds, torch.device(arguments.device))
    workers.stop()
    one, two = seconds["one"][0], seconds["two"][0]
    say(f"{arguments.batch} crops of {arguments.seconds} s a step; median of {arguments.rounds}")
    say(f"one process, {arguments.threads} threads: {one:.3f} s a step")
    say(f"{NUM_PROCESSES} processes, one thread each: {two:.3f} s a step, {one / two:.2f} x the throughput")
    say(f"gradients exchanged: {megabytes:.1f} MB a step")


if __name__ == "__main__":
    main()
