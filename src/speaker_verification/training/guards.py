"""What stops a training: with the reason, the place, what is left, and what to do."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from speaker_verification.common.errors import DataError, UserError
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.data.sampling import Key
from speaker_verification.training.phase import PhaseSettings

logger = logging.getLogger(__name__)
NUM_NAMED = 8  # examples that a message shows
# How torch's CPU allocator says it, which has no class of its own for it.
NO_MEMORY = ("DefaultCPUAllocator", "not enough memory")


class TrainingError(UserError):
    """Training cannot go on."""


def require_finite(
    what: str, value: Tensor, step: int, examples: TrainingExamples, keys: Sequence[Key], last_good: str
) -> None:
    """Stop at a loss or gradient that is not a number.

    Args:
        what: the value's name.
        value: of one element.
        step: optimiser step, from 0.
        examples: what training draws from.
        keys: examples that the step has taken so far.
        last_good: what has been saved.

    Raises:
        TrainingError: it is not finite; the first example that is not finite itself is named with the file
            to blame, or else all with what was drawn for them (the first ones, where the log has the rest).
    """
    if torch.isfinite(value):
        return
    found = f"the {what} is {float(value.detach())} at step {step} ({last_good})"
    culprit = examples.find_not_finite(keys)
    if culprit is not None:
        raise TrainingError(f"{found}: {culprit}: mend that file in its archive, prepare again and go on")
    described = [examples.describe(key) for key in keys]
    for number, line in enumerate(described, start=1):
        logger.error("step %d, example %d of %d: %s", step, number, len(described), line)
    rest = f" and {len(keys) - NUM_NAMED} more, all of them in the log" if len(keys) > NUM_NAMED else ""
    raise TrainingError(
        f"{found}: all waveforms are finite, so lower the learning rate or look at these utterances: "
        f"{', '.join(described[:NUM_NAMED])}{rest}"
    )


@contextmanager
def explaining_short_memory(phase: PhaseSettings, step: int) -> Iterator[None]:
    """Say which parameters to lower when a step needs more memory than there is.

    Raises:
        TrainingError: the block ran out of memory, on whichever device.
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
            f"examples a step), or lower crop_seconds from {phase.crop_seconds:g}"
        ) from error


@contextmanager
def explaining_failed_writes(path: Path, last_good: str) -> Iterator[None]:
    """Say what is left when a checkpoint cannot be written.

    Args:
        path: that the block writes.
        last_good: what has been saved before.

    Raises:
        DataError: the block could not write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write '{path}': {error}; {last_good}: make room and run again") from error


@contextmanager
def holding_termination() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM, with which schedulers announce the end, wait for the end of the block.

    Yields:
        Tells whether it has come: the block then has little time to leave.

    Raises:
        SystemExit: it has come, and nothing else was to happen at it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread is told of signals
        return
    come: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: come.append(number))
    try:
        yield lambda: bool(come)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if come:
            signal.raise_signal(signal.SIGTERM)
            raise SystemExit(128 + signal.SIGTERM)
