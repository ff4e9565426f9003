"""Progress of long steps: a bar on a terminal, a line now and then in a log.

A step that takes less than QUIET_SECONDS shows nothing. All bars of a process share one block at the foot of
the terminal, and lines that are logged meanwhile appear above it.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from speaker_verification.common.distributed import processes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

QUIET_SECONDS = 3.0
SILENT_SECONDS = 30.0  # after which a step that counts nothing gets its first line in a log
_LONGEST_PAUSE_SECONDS = 600.0

Clock = Callable[[], float]
Advance = Callable[..., None]
Item = TypeVar("Item")


def duration_text(seconds: float) -> str:
    """Duration in its largest fitting unit, with two digits or more: 0.4 s, 72 s, 12 min, 3.4 h, 5.2 d."""
    limits = (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72), ("d", 86_400, float("inf")))
    for unit, size, limit in limits:
        number = seconds / size
        if round(number) < limit:
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    raise AssertionError(f"a duration of {seconds} s")


class Pace:
    """Times at which a step logs its progress: ever more rarely, and every ten minutes in the end.

    Args:
        first_seconds: time from the start to the first line.
        clock: time in s.
    """

    def __init__(self, first_seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._due = first_seconds

    @property
    def seconds(self) -> float:
        """Time since the start in s."""
        return self._clock() - self._started

    def is_due(self) -> bool:
        """Whether a line is due; the next one then is when three times as much time has passed."""
        seconds = self.seconds
        if seconds < self._due:
            return False
        self._due = seconds + min(2 * seconds, _LONGEST_PAUSE_SECONDS)
        return True


@contextmanager
def progress_bar(
    description: str,
    total: int | None,
    completed: int = 0,
    value: str | None = None,
    *,
    in_bytes: bool = False,
    first_line_seconds: float = QUIET_SECONDS,
    clock: Clock = time.monotonic,
) -> Iterator[Advance]:
    """Progress of a step that counts its work, until the end of the block.

    Of several processes the first shows it.

    Args:
        description: name of the step.
        total: amount of work; None where it is not known.
        completed: work done before.
        value: name of a number shown behind the bar; None for none.
        in_bytes: whether the work is bytes, shown in MB.
        first_line_seconds: time in s to the first line in a log that is no terminal.
        clock: time in s.

    Yields:
        A function to call after a piece of work, with its amount (1 by default) and the number by its name.
    """
    if not processes().is_first:
        yield lambda *_, **__: None
        return
    done = completed
    on_terminal = _terminal.is_there()
    pace = Pace(QUIET_SECONDS if on_terminal else first_line_seconds, clock)
    task: TaskID | None = None
    lock = threading.Lock()

    def advance(amount: int = 1, **shown: float) -> None:
        nonlocal done, task
        with lock:
            done += amount
            _signs.last = time.monotonic()
            if task is None and (done == total or not pace.is_due()):
                return
            state = _state(done, completed, total, in_bytes, pace.seconds)
            if value is not None and value in shown:
                state += f", {value} {shown[value]:.3g}"
            if not on_terminal:
                logger.info("%s: %s", description, state)
            elif task is None:
                task = _terminal.add(description, total, done, state)
            else:
                _terminal.update(task, done, state)

    try:
        yield advance
    finally:
        if task is not None:
            _terminal.remove(task)


def shown(description: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, and show how many are done with, as `progress_bar`."""
    with progress_bar(description, len(items)) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def busy(description: str, first_line_seconds: float = SILENT_SECONDS) -> Iterator[None]:
    """Sign of life of a step that may count nothing, until the end of the block.

    While a bar tells more of the step, the bar alone is shown. Of several processes the first shows it.

    Args:
        description: name of the step.
        first_line_seconds: time in s without progress to the first line in a log that is no terminal.
    """
    if not processes().is_first:
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(target=_show_busy, args=(description, first_line_seconds, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _show_busy(description: str, first_line_seconds: float, ended: threading.Event) -> None:
    started = time.monotonic()
    if ended.wait(QUIET_SECONDS):
        return
    if _terminal.is_there():
        state = f"{duration_text(QUIET_SECONDS)} so far"
        task = _terminal.add(description, None, 0, state, counts=False)
        while not ended.wait(1):
            _terminal.update(task, 0, f"{duration_text(time.monotonic() - started)} so far")
        _terminal.remove(task)
        return
    pause = first_line_seconds
    while not ended.wait(max(max(started, _signs.last) + pause - time.monotonic(), 0.1)):
        if time.monotonic() - max(started, _signs.last) >= pause:
            seconds = time.monotonic() - started
            logger.info("%s: %s so far", description, duration_text(seconds))
            _signs.last = time.monotonic()
            pause = min(2 * seconds, _LONGEST_PAUSE_SECONDS)


def _state(done: int, before: int, total: int | None, in_bytes: bool, seconds: float) -> str:
    """Text of the work done, of its share, and of the time that is left by the rate so far."""
    unit = " MB" if in_bytes else ""
    count, of = (f"{number / 1e6:,.0f}" if in_bytes else f"{number:,}" for number in (done, total or 0))
    if not total:
        return f"{count}{unit}, {duration_text(seconds)} so far"
    share = f"{count} of {of}{unit}, {100 * done / total:.0f} %"
    if done <= before:
        return share
    return f"{share}, {duration_text(seconds * max(total - done, 0) / (done - before))} left"


class _Signs:
    """Time of the last progress of any step of this process."""

    last = -float("inf")


class _Terminal:
    """The block of bars at the foot of the terminal, there while it has any."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._tasks: dict[TaskID, bool] = {}  # whether the task counts its work
        self._handlers: list[logging.StreamHandler[Any]] = []  # that write above the block
        self._outputs = (sys.stdout, sys.stderr)  # as they are without a block
        self._closed = False

    def is_there(self) -> bool:
        """Whether lines are logged to a terminal that can show bars."""
        if self._closed or os.environ.get("TERM", "") in ("dumb", "unknown"):
            return False
        return self._progress is not None or (sys.stderr is not None and sys.stderr.isatty())

    def add(
        self, description: str, total: int | None, completed: int, state: str, counts: bool = True
    ) -> TaskID:
        with self._lock:
            progress = self._progress or self._start()
            task = progress.add_task(description, total=total, completed=completed, state=state)
            self._tasks[task] = counts
            self._hide_what_tells_less(progress)
            return task

    def update(self, task: TaskID, completed: int, state: str) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.update(task, completed=completed, state=state)

    def remove(self, task: TaskID) -> None:
        with self._lock:
            if self._progress is None:
                return
            self._progress.remove_task(task)
            del self._tasks[task]
            self._hide_what_tells_less(self._progress)
            if not self._tasks:
                self.stop()

    def stop(self) -> None:
        """Remove the block, and give the terminal its cursor back."""
        with self._lock:
            progress, self._progress = self._progress, None
            self._tasks.clear()
            if progress is not None:
                progress.stop()
                self._release_handlers()

    def close(self) -> None:
        """Remove the block for good."""
        self._closed = True
        self.stop()

    def forget(self) -> None:
        """Leave the block to the process that this one was forked from."""
        self._lock = threading.RLock()
        if self._progress is not None:
            self._progress = None
            self._tasks.clear()
            sys.stdout, sys.stderr = self._outputs
            self._release_handlers()

    def _release_handlers(self) -> None:
        for handler in self._handlers:
            handler.stream = self._outputs[1]
        self._handlers.clear()

    def _hide_what_tells_less(self, progress: Progress) -> None:
        is_counting = any(self._tasks.values())
        for task, counts in self._tasks.items():
            progress.update(task, visible=counts or not is_counting)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[state]}", markup=False),
        )
        self._outputs = sys.stdout, sys.stderr
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()  # puts a stream that prints above the block in the place of sys.stderr
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._outputs[1]:
                self._handlers.append(handler)
                handler.stream = sys.stderr
        return self._progress


_signs = _Signs()
_terminal = _Terminal()
atexit.register(_terminal.close)  # also after Ctrl-C
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_terminal.forget)
