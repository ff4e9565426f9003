"""Process of a run: it logs to a file, and ends in good order when the run that waits for it is ended."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ERROR = "Error: "  # before the message of a `kedro run` that was refused


def run_to_end(command: Sequence[str], folder: Path, log: Path) -> int:
    """Exit code of a command, or the negative number of the signal that has ended it.

    Ctrl-C and SIGTERM end the command by SIGTERM, upon which a training saves, and then this process.

    Args:
        command: program and arguments.
        folder: folder to start it in.
        log: file that its output is added to.
    """
    with log.open("ab") as output:
        # In a session of its own: a terminal sends Ctrl-C to all processes of one.
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def failure_of(code: int, output: str) -> str:
    """Reason of a failed command: its error, or the last line of its output.

    Args:
        code: exit code, or the negative number of a signal.
        output: its output.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{[lines[-1], *errors][-1]} ({ended})"
