"""Commands of a test project under torchrun, and the processes that belong to them."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MARK = "STARTED_BY_TEST"  # environment variable that all processes of one start inherit


class Torchrun(subprocess.Popen[str]):
    """`kedro` in several processes that torchrun starts; in one process without torchrun.

    Args:
        folder: project with an environment `tiny`.
        size: number of processes.
        *arguments: arguments of `kedro`.
        output: file for what is printed, both streams; a pipe by default.
    """

    def __init__(
        self, folder: Path, size: int, *arguments: str, output: int | IO[str] = subprocess.PIPE
    ) -> None:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "--no-python"]
        kedro = [sys.executable, "-m", "kedro", *arguments]
        self._mark = uuid.uuid4().hex
        super().__init__(
            kedro if size == 1 else [sys.executable, "-m", *launcher, *kedro],
            cwd=folder,
            env=os.environ | {"KEDRO_ENV": "tiny", "OMP_NUM_THREADS": "1", MARK: self._mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def workers(self) -> dict[int, int]:
        """Process ids by rank of the processes that torchrun has started."""
        children = ((pid, variables) for pid, parent, variables in self._living() if parent == self.pid)
        return {int(variables["RANK"]): pid for pid, variables in children if "RANK" in variables}

    def living(self) -> set[int]:
        """Process ids of all its processes that live, orphans among them."""
        return {pid for pid, *_ in self._living()}

    def _living(self) -> Iterator[tuple[int, int, dict[str, str]]]:
        """Id, parent's id and environment of each process."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                variables = (folder / "environ").read_text(errors="replace").split("\0")
            except OSError:  # ended meanwhile
                continue
            named = dict(variable.split("=", 1) for variable in variables if "=" in variable)
            if named.get(MARK) == self._mark:  # one that has ended has no environment
                yield int(folder.name), int(parent), named
