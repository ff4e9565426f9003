"""Shared helpers of the benchmarks: interleaved medians, and the peak of living tensors."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Way = Callable[[], object]


def parser_of(description: str | None, rounds: int, larger: str) -> argparse.ArgumentParser:
    """Parser of the options that all benchmarks have: device, threads, rounds and the larger size.

    Args:
        description: the script's.
        rounds: by default.
        larger: help of the larger size.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--large", action="store_true", help=larger)
    return parser


def interleaved_seconds(
    ways: dict[str, tuple[Way, ...]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Median seconds of every step of every way, the ways in turn, after one round to warm up."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in steps] for name, steps in ways.items()}
    for index in range(rounds + 1):
        for name, steps in ways.items():
            for place, step in enumerate(steps):
                wait(device)
                started = time.perf_counter()
                step()
                wait(device)
                if index:
                    seconds[name][place].append(time.perf_counter() - started)
    return {name: [statistics.median(step) for step in steps] for name, steps in seconds.items()}


def peak_bytes(steps: tuple[Way, ...], device: torch.device) -> int:
    """Most memory of tensors alive at once that a way's steps make, one after the other."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for step in steps:
            step()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _StorageWatch() as watch:
        for step in steps:
            step()
    return watch.peak


class _StorageWatch(TorchDispatchMode):
    """Sums the storages that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = set(map(_address, _tensors((args, kwargs or {}))))
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            address = _address(tensor)
            if address not in before and address not in self._known:
                size = tensor.untyped_storage().nbytes()
                self._known.add(address)
                self.alive += size
                weakref.finalize(tensor.untyped_storage(), self._forget, address, size)
        self.peak = max(self.peak, self.alive)
        return result

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.alive -= size


def _tensors(tree: Any) -> Iterable[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(line: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
