"""Kills `kedro run` at random moments of a download and of a preparation, and looks at what a rerun leaves.

    python -m benchmarks.kills MIRROR [--kills 20] [--seed 0]

MIRROR is a folder of archives; it is served on loopback, slowly. Each round begins without data (a
preparation: with what was downloaded), kills the run and all of its processes with signal 9, runs it again,
and compares every file with those of an undisturbed run. Hidden records hold times of change: of these, only
the names are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.host import Host, serving
from tests.support.project import copy_project, tell_of_nodes

ENV = "mini"
BLOCK_SECONDS = 0.002  # between two blocks of the host: a download takes seconds, not a moment
PIPELINES = ("download", "prepare")


def main() -> int:
    arguments = _parse()
    files = {path.name: path.read_bytes() for path in arguments.mirror.iterdir() if path.is_file()}
    drawn = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name, serving(Host(files, block_seconds=BLOCK_SECONDS)) as host:
        project = tell_of_nodes(copy_project(Path(name)))
        undisturbed, seconds = {}, {}
        for pipeline in PIPELINES:
            running = _start(project, pipeline, host)
            began = time.monotonic()
            _finish(running)
            seconds[pipeline] = time.monotonic() - began
            undisturbed[pipeline] = _tree(project / "data")
            if pipeline == "download":
                shutil.copytree(project / "data", project / "downloaded")
            sys.stdout.write(f"{pipeline}: undisturbed in {seconds[pipeline]:.1f} s\n")
        sys.stdout.write(f"{'round':>5} {'pipeline':10} {'killed at':>9} {'half done':>9}  after the rerun\n")
        failed = 0
        for number in range(arguments.kills):
            pipeline = PIPELINES[number % len(PIPELINES)]
            shutil.rmtree(project / "data")
            if pipeline == "prepare":
                shutil.copytree(project / "downloaded", project / "data")
            moment = drawn.uniform(0, seconds[pipeline])
            running = _start(project, pipeline, host)
            time.sleep(moment)
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            half_done = len(list((project / "data").rglob(".*.part")))
            _finish(_start(project, pipeline, host))
            verdict = _compare(undisturbed[pipeline], _tree(project / "data"))
            failed += verdict != "identical"
            sys.stdout.write(f"{number + 1:5} {pipeline:10} {moment:7.1f} s {half_done:9}  {verdict}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{arguments.kills - failed} of {arguments.kills} rounds end as an undisturbed run\n")
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _start(project: Path, pipeline: str, host: Host) -> subprocess.Popen[str]:
    """A run that has just begun its first node."""
    command = [sys.executable, "-m", "kedro", "run", f"--env={ENV}", f"--pipeline={pipeline}"]
    running = subprocess.Popen(
        [*command, f"--params=prepare.mirror={host.address}"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    while (line := running.stdout.readline()) and "Running node" not in line:
        pass
    return running


def _finish(running: subprocess.Popen[str]) -> None:
    printed, _ = running.communicate()
    if running.returncode:
        raise SystemExit(f"{running.args}\n{printed}")


def _tree(folder: Path) -> dict[str, str]:
    """MD5 of every file by its path; of hidden ones the path alone."""
    return {
        str(path.relative_to(folder)): ""
        if path.name.startswith(".")
        else hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _compare(expected: dict[str, str], found: dict[str, str]) -> str:
    differences = {
        "missing": expected.keys() - found.keys(),
        "stray": found.keys() - expected.keys(),
        "different": {name for name in expected.keys() & found.keys() if expected[name] != found[name]},
    }
    told = [f"{len(names)} {what} ({min(names)}, ...)" for what, names in differences.items() if names]
    return ", ".join(told) or "identical"


if __name__ == "__main__":
    sys.exit(main())
