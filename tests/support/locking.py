"""A process that holds locks, for tests of what others then may do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLD = """
import signal, sys, time
from pathlib import Path
from speaker_verification.common import locks
what, in_background, *paths = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN if in_background == "True" else signal.default_int_handler)
locks.BEAT_SECONDS = 0.05
with locks.holding(map(Path, paths), what):
    print("holds", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another(
    *paths: Path, what: str = "finetune", in_background: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Another process holds these paths; in a shell's background it ignores SIGINT."""
    command = [sys.executable, "-c", HOLD, what, str(in_background), *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()
