"""Two hosts of one machine: network namespaces joined by a virtual cable, which share the disk.

    python -m benchmarks.two_hosts [--folder FOLDER] [--epochs 200]

Needs root, and `ip`, `unshare` and `nsenter` (iproute2, util-linux). Each host has its own network, host
name, file of host names and process ids. A tiny environment is prepared, trained and evaluated by one process
and by two hosts under torchrun, whose results are compared; the worker of one host, and then of the
other, is killed while they train, and the same command finishes; a worker started by hand looks for a host
that is not there. Prints exit codes and seconds; takes minutes. Without --folder what it writes is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.timing import say
from tests.support.project import copy_project

NETWORK, PORT, INTERFACE = "10.213.7", 29400, "eth0"
MARK = "STARTED_BY_BENCHMARK"  # environment variable that all processes of a run inherit
COMPARABLE = {  # dropout's masks differ by number of processes, and Adam makes steps of a gradient's rounding
    "model": {"layer_aggregation": {"lap": {"dropout": 0.0}}, "speaker_network": {"astp": {"dropout": 0.0}}},
    "pretrain": {"optimiser": {"kind": "sgd"}},
}
TOLERANCE = 1e-4  # of results, which differ by the order of additions
LIMIT_SECONDS = 30.0  # after a kill, in which both hosts must have ended
KEDRO = (sys.executable, "-m", "kedro", "run")
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
    *("--rdzv-backend=c10d", f"--rdzv-endpoint=host-1:{PORT}", "--rdzv-id=two-hosts", "--no-python"),
)


class Host:
    """Namespaces with a network, a host name, a file of host names and process ids of their own.

    Args:
        number: 1 for the first host, 2 for the second.
        names: file of host names and addresses.
    """

    def __init__(self, number: int, names: Path) -> None:
        self.name, self.address = f"host-{number}", f"{NETWORK}.{number}"
        unshare = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        begin = (
            f"hostname {self.name} && mount --bind {names} /etc/hosts && echo begun && exec sleep infinity"
        )
        self._unshare = subprocess.Popen([*unshare, "sh", "-c", begin], stdout=subprocess.PIPE)
        assert self._unshare.stdout is not None
        self._unshare.stdout.readline()
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(children.read_text())

    def enter(self, folder: Path, *command: str) -> list[str]:
        """A command line that runs a command in a folder on this host."""
        namespaces = ["--net", "--uts", "--mount", "--pid"]
        return ["nsenter", f"--target={self.pid}", *namespaces, f"--wd={folder}", "--", *command]

    def start(
        self, folder: Path, command: Sequence[str], log: Path, **variables: str
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            environment = os.environ | {"KEDRO_ENV": "tiny", "OMP_NUM_THREADS": "1"} | variables
            return subprocess.Popen(
                self.enter(folder, *command), env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def end(self) -> None:
        """End all processes of the host; its end of the cable goes with it."""
        self._unshare.kill()
        self._unshare.wait()


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other, until the end of the block."""
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{NETWORK}.{n} host-{n}\n" for n in (1, 2)))
    with ExitStack() as stack:
        hosts = []
        for number in (1, 2):
            hosts.append(Host(number, names))
            stack.callback(hosts[-1].end)
        first, second = hosts
        cable = ("type", "veth", "peer", "name", INTERFACE, "netns", str(second.pid))
        _run("ip", "link", "add", INTERFACE, "netns", str(first.pid), *cable)
        for host in hosts:
            _run(*host.enter(folder, "ip", "address", "add", f"{host.address}/24", "dev", INTERFACE))
            for interface in ("lo", INTERFACE):
                _run(*host.enter(folder, "ip", "link", "set", interface, "up"))
        yield first, second


class Run:
    """A `kedro run` on both hosts."""

    def __init__(self, hosts: Sequence[Host], folder: Path, *arguments: str) -> None:
        self._mark = uuid.uuid4().hex
        self.logs = [folder / f"{host.name}.log" for host in hosts]
        self._began = time.monotonic()
        self._running = [
            host.start(folder, [*TORCHRUN, *KEDRO, *arguments], log, **{MARK: self._mark})
            for host, log in zip(hosts, self.logs, strict=True)
        ]

    def wait(self) -> tuple[list[int], float]:
        """Exit codes, and seconds until both hosts have ended."""
        return [launcher.wait() for launcher in self._running], time.monotonic() - self._began

    def printed(self) -> str:
        return self.logs[0].read_text(errors="replace")

    def kill_worker(self, rank: int, line: str) -> None:
        """Kill a worker as soon as a line is printed; seconds count from then on."""
        while line not in self.printed():
            if any(launcher.poll() is not None for launcher in self._running):
                raise SystemExit(f"ended before '{line}':\n{self.printed()}")
            time.sleep(0.05)
        os.kill(self._worker(rank), signal.SIGKILL)
        self._began = time.monotonic()

    def _worker(self, rank: int) -> int:
        """Process id of a worker; processes that it has started have greater ones."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # ended meanwhile
                continue
            if {f"{MARK}={self._mark}".encode(), f"RANK={rank}".encode()} <= {*variables}:
                found.append(int(path.parent.name))
        return min(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="empty folder for what is written, to keep")
    parser.add_argument("--epochs", type=int, default=200, help="of the phase in which workers are killed")
    arguments = parser.parse_args()
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        parser.error("needs root, and the commands ip (iproute2), unshare and nsenter (util-linux)")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        (folder / "one").mkdir(parents=True)
        one = copy_project(folder / "one", **COMPARABLE)
        with two_hosts(folder) as hosts:
            passed = [_compare(hosts, one, folder / "two")]
            passed += [_kill(hosts, folder / "two", rank, arguments.epochs + rank) for rank in (1, 0)]
            passed += [_look_for_nobody(hosts[1], one)]
    return 0 if all(passed) else 1


def _compare(hosts: Sequence[Host], one: Path, two: Path) -> bool:
    """Prepare, train and evaluate, and compare the results of two hosts with those of one process."""
    shutil.copytree(one, two)
    say(f"{'':44} {'one process':>11} {'two hosts':>10}  exit codes")
    for what, options in (("prepare and pretrain", ["--pipelines=prepare,pretrain"]), ("evaluate", [])):
        own = [
            options or ["--pipeline=evaluate", f"--params=embed.model={_model(root)}"] for root in (one, two)
        ]
        began = time.monotonic()
        environment = os.environ | {"KEDRO_ENV": "tiny", "OMP_NUM_THREADS": "1"}
        alone = subprocess.run([*KEDRO, *own[0]], cwd=one, env=environment, capture_output=True, check=False)
        seconds = time.monotonic() - began
        run = Run(hosts, two, *own[1])
        codes, seconds_of_two = run.wait()
        say(f"{what:44} {seconds:9.1f} s {seconds_of_two:8.1f} s  {alone.returncode}, {codes}")
        if alone.returncode or any(codes):
            raise SystemExit(alone.stdout.decode() + run.printed())
    same_files = _prepared(one) == _prepared(two)
    (losses, scores), (losses_of_two, scores_of_two) = (_results(root) for root in (one, two))
    loss, score = (abs(losses / losses_of_two - 1).max(), abs(scores - scores_of_two).max())
    say(f"{len(_prepared(one))} prepared files {'identical' if same_files else 'DIFFERENT'}")
    say(f"largest differences: {loss:.1e} of a loss, relatively, and {score:.1e} of a cosine score")
    return same_files and loss < TOLERANCE and score < TOLERANCE


def _model(root: Path) -> Path | None:
    found = sorted(root.glob("data/tiny/06_models/pretrain/checkpoint/*/checkpoint/epoch_*"))
    return found[-1] if found else None


def _prepared(root: Path) -> dict[str, bytes]:
    """Files of the layers that `prepare` fills; markers hold times."""
    layers = [root / "data/tiny" / layer for layer in ("02_intermediate", "03_primary")]
    files = [path for layer in layers for path in layer.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name != ".source"}


def _results(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the epochs, and cosine scores of all trials."""
    curve, scores = (
        pd.concat(map(pd.read_parquet, sorted(root.glob(f"data/tiny/{name}"))))
        for name in (
            "06_models/pretrain/learning_curve.parquet/*/*.parquet",
            "07_model_output/scores.parquet/*/*.parquet",
        )
    )
    return curve.query("metric == 'loss'")["value"].to_numpy(), scores["cosine"].to_numpy()


def _kill(hosts: Sequence[Host], folder: Path, rank: int, epochs: int) -> bool:
    """Kill a worker while it trains, and start the same command again."""
    parameters = f"--params=pretrain.epochs={epochs},pretrain.save_every_steps=1"
    run = Run(hosts, folder, "--pipeline=pretrain", parameters)
    run.kill_worker(rank, f" 2/{epochs}  EER")
    codes, seconds = run.wait()
    say(f"worker of rank {rank} killed: exit codes {codes}, {seconds:.1f} s after")
    again = Run(hosts, folder, "--pipeline=pretrain", parameters)
    codes_again, seconds_again = again.wait()
    resumes = "resuming from step" in again.printed()
    say(f"again: exit codes {codes_again}, {seconds_again:.1f} s, {'resumes' if resumes else 'BEGINS ANEW'}")
    return 0 not in codes and seconds < LIMIT_SECONDS and not any(codes_again) and resumes


def _look_for_nobody(host: Host, folder: Path) -> bool:
    """Start a worker by hand, with an address at which no other one is."""
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": f"{NETWORK}.9", "MASTER_PORT": str(PORT)}
    began, log = time.monotonic(), folder / "nobody.log"
    code = host.start(folder, [*KEDRO, "--pipeline=pretrain"], log, **variables).wait()
    errors = [line for line in log.read_text().splitlines() if line.startswith("Error: ")]
    say(f"worker with a wrong address: exit code {code}, {time.monotonic() - began:.1f} s, {errors}")
    return code == 1 and len(errors) == 1


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
