"""Fatal training errors, reported with cause, step, last saved state and remedy."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import DataError, UserError
from speaker_verification.common.termination import handle_termination
from speaker_verification.data.examples import Key, TrainingExamples
from speaker_verification.training.phase import PhaseSettings

logger = logging.getLogger(__name__)
NUM_NAMED = 8  # examples named in a message
# Messages of torch's CPU allocator, which raises a plain RuntimeError.
NO_MEMORY = ("DefaultCPUAllocator", "not enough memory")


class TrainingError(UserError):
    """Training had to stop."""


def require_finite(
    name: str, value: float, step: int, examples: TrainingExamples, keys: Sequence[Tensor], last_good: str
) -> None:
    """Stop at a loss or gradient that is not finite, in all processes.

    Args:
        name: name of the value.
        value: loss or gradient norm, the same in all processes.
        step: optimiser step, from 0.
        examples: training examples.
        keys: pass numbers and utterance rows of every forward pass that the value depends on, (B, 2) each, of
            this process's share.
        last_good: last saved state, as a phrase.

    Raises:
        TrainingError: the value is not finite; the first example that is not finite itself is named with the
            file to blame, or else all with what was drawn for them (the first ones, the log has the rest).
    """
    if math.isfinite(value):
        return
    found = f"the {name} is {value} at step {step} ({last_good})"
    length = examples.crop_lengths.of_step(step)
    drawn: list[Key] = [(number, row, length) for batch in keys for number, row in batch.tolist()]
    group = processes()
    culprit = next((own for own in group.gather(examples.find_not_finite(drawn)) if own), None)
    if culprit is not None:
        raise TrainingError(f"{found}: {culprit}: mend that file in its archive, prepare again and resume")
    described = [line for share in group.gather([examples.describe(key) for key in drawn]) for line in share]
    for number, line in enumerate(described if group.is_first else [], start=1):
        logger.error("step %d, example %d of %d: %s", step, number, len(described), line)
    more = len(described) - NUM_NAMED
    rest = f" and {more} more, all of them in the log" if more > 0 else ""
    raise TrainingError(
        f"{found}: all waveforms are finite, so lower the learning rate or look at these utterances: "
        f"{', '.join(described[:NUM_NAMED])}{rest}"
    )


@contextmanager
def report_out_of_memory(phase: PhaseSettings, step: int) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one that names the parameters to lower.

    Args:
        phase: settings of the phase, whose values the message names.
        step: optimiser step, from 0.

    Raises:
        TrainingError: out of memory on the CPU or the GPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(words in str(error) for words in NO_MEMORY):
            raise
        half = -(-phase.batch_size // 2)
        raise TrainingError(
            f"out of memory at step {step}: lower batch_size from {phase.batch_size} to {half} and raise "
            f"accumulation_steps from {phase.accumulation_steps} to {2 * phase.accumulation_steps} (as many "
            f"examples a step), or lower crop_seconds from {phase.crop_range[1]:g}"
        ) from error


@contextmanager
def report_failed_writes(path: Path, last_good: str) -> Iterator[None]:
    """Turn a failed write of the block into an error that names the last saved state.

    Args:
        path: file or folder written by the block.
        last_good: last saved state, as a phrase.

    Raises:
        DataError: the path cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write '{path}': {error}; {last_good}: make room and run again") from error


@contextmanager
def defer_termination() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM (sent by job schedulers before killing) until the block exits.

    Yields:
        A function that returns whether SIGTERM has arrived, in this process or in one of those that it has
        joined: the block should then save and exit. All processes call it at the same places.

    Raises:
        SystemExit: SIGTERM has arrived and no other handler was installed.
    """
    received: list[int] = []
    restore = handle_termination(lambda number, _: received.append(number))

    def terminated() -> bool:
        if processes().any(bool(received)) and not received:
            received.append(signal.SIGTERM)
        return bool(received)

    try:
        yield terminated
        restore()
        terminated()  # a signal since the block's last call
    finally:
        restore()
        if received:
            signal.raise_signal(signal.SIGTERM)
            raise SystemExit(128 + signal.SIGTERM)
