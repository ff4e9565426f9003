"""Handlers of SIGTERM, which job schedulers send before they kill."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType


def exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Exit with the status of a process that the signal has ended, after `finally` and `atexit`."""
    sys.exit(128 + number)


def handle_termination(handler: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Install a handler of SIGTERM; in other threads than the main one, which gets all signals, do nothing.

    Returns:
        A function that puts the former handler back, unless the handler was replaced meanwhile.
    """
    if not _is_main_thread():
        return lambda: None

    def handle(number: int, frame: FrameType | None) -> None:
        handler(number, frame)

    before = signal.signal(signal.SIGTERM, handle)

    def restore() -> None:
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    return restore


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
