"""A step of the margin head at the size of VoxBlink2: all classes at once, in chunks, and sharded.

    python -m benchmarks.head [--classes 333852] [--centres 1 3] [--batch 64] [--device cuda]

Forward pass, backward pass and Adam, over embeddings of width 192. Two processes, with one thread each, share
the classes (gloo on one host; on GPUs, where there are two); each has half of the batch. All ways take turns
in one run. Memory is that of one process: what it holds between steps (weights and moments), and the peak of
the tensors that a step makes.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from benchmarks.timing import Way, interleaved_seconds, parser_of, peak_bytes, say
from benchmarks.workers import Workers

from speaker_verification.common.distributed import processes
from speaker_verification.models.heads import HeadSettings, build_head
from speaker_verification.models.heads.base import Margins
from speaker_verification.training.exchange import GradientExchange

WIDTH = 192
NUM_CLASSES = 111_284 * 3  # speakers of VoxBlink2 at three speeds
MARGINS = Margins(target=0.3, top_k=5, top_k_penalty=0.06)
NUM_PROCESSES = 2


class HeadStep:
    """Head and optimiser; called, a step on one batch of random embeddings, or on this process's share."""

    def __init__(self, arguments: argparse.Namespace, num_centres: int, sharded: bool) -> None:
        torch.manual_seed(1)
        settings = HeadSettings.parse({"aam_softmax": {"num_subcentres": num_centres}}, "head")
        self.head = build_head(settings, WIDTH, arguments.classes)
        self.head.distribute(sharded, arguments.chunk)
        self.head.to(arguments.device)
        parameters = list(self.head.parameters())
        self.exchange = GradientExchange(parameters, self.head.sharded_parameters)
        self.optimiser = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        own = processes().share(arguments.batch, "batch")
        self.embeddings = torch.randn(arguments.batch, WIDTH)[own].to(arguments.device).requires_grad_()
        self.labels = torch.randint(arguments.classes, (arguments.batch,))[own].to(arguments.device)

    def __call__(self) -> None:
        self.head(self.embeddings, self.labels, MARGINS).loss.backward()
        self.exchange.average()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


class Memory(NamedTuple):
    """Bytes that a process holds between steps, and the most that a step makes beside them."""

    held: int
    peak: int


def memory(step: HeadStep) -> Memory:
    """Memory of a step, after one that has made the moments."""
    step()
    held = 3 * sum(parameter.nbytes for parameter in step.head.parameters())
    return Memory(held, peak_bytes((step,), step.embeddings.device))


def measure(arguments: argparse.Namespace, num_centres: int) -> None:
    """Print memory and seconds of all ways at a number of centres a class."""
    one = HeadStep(arguments, num_centres, sharded=False)

    def step_of(length: int) -> Way:
        def step() -> None:
            one.head.distribute(False, length)
            one()

        return step

    lengths = {"plain": arguments.classes, "chunked": arguments.chunk}
    ways = {name: step_of(length) for name, length in lengths.items()}
    found = {}
    for name, length in lengths.items():
        one.head.distribute(False, length)
        found[name] = memory(one)
    workers = None
    if arguments.device == "cpu" or torch.cuda.device_count() >= NUM_PROCESSES:
        workers = ways["sharded"] = Workers(NUM_PROCESSES, HeadStep, arguments, num_centres, True)
        found["sharded"] = max(workers.each(memory), key=sum)
    device = torch.device(arguments.device)
    seconds = interleaved_seconds({name: (way,) for name, way in ways.items()}, arguments.rounds, device)
    if workers is not None:
        workers.stop()
    say(f"{num_centres} x {arguments.classes} centres")
    plain = found["plain"]
    for name, (held, peak) in found.items():
        own, ratio = seconds[name][0], seconds["plain"][0] / seconds[name][0]
        say(
            f"  {name:8} holds {held / 1e6:6.0f} MB, a step makes {peak / 1e6:6.0f} MB "
            f"({peak / plain.peak:.2f} of plain) and takes {own:7.3f} s ({ratio:.2f} x as fast)"
        )


def main() -> None:
    parser = parser_of(__doc__, rounds=5, larger="batch of 512")
    parser.add_argument("--classes", type=int, default=NUM_CLASSES)
    parser.add_argument("--centres", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=HeadSettings().classes_per_chunk)
    arguments = parser.parse_args()
    arguments.batch = 512 if arguments.large else arguments.batch
    torch.set_num_threads(arguments.threads)
    say(
        f"{arguments.batch} embeddings, {arguments.device}, {arguments.threads} threads, chunks of "
        f"{arguments.chunk} classes; median of {arguments.rounds}"
    )
    for num_centres in arguments.centres:
        measure(arguments, num_centres)


if __name__ == "__main__":
    main()
