"""Processes that work together: what they exchange, and how they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from speaker_verification.common import distributed
from speaker_verification.common.device import resolve_device
from speaker_verification.common.distributed import Processes, joined_processes, processes
from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.common.termination import exit_on_signal
from tests.support.processes import run_processes, values_of


def exchange() -> dict[str, Any]:
    group = processes()
    own = torch.tensor([1.0, 2.0]) * 10**group.rank
    return {
        "sum": group.sum(own.clone()).tolist(),
        "mean": group.mean(own.double()).tolist(),
        "stack": group.stack(own).tolist(),
        "gather": group.gather({"rank": group.rank}),
        "first": group.first(f"of rank {group.rank}"),
        "any": [group.any(group.rank == 2), group.any(False)],
        "share": group.share(6, "batch_size"),
        "place": (group.rank, group.size, group.local_rank, group.is_first),
    }


@pytest.mark.project
def test_all_processes_have_the_same_sums_and_their_own_share() -> None:
    found = values_of(run_processes(3, exchange))
    for rank, values in enumerate(found):
        assert values.pop("share") == slice(2 * rank, 2 * rank + 2)
        assert values.pop("place") == (rank, 3, rank, rank == 0)
        assert values == {
            "sum": [111.0, 222.0],
            "mean": [37.0, 74.0],
            "stack": [[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]],
            "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "first": "of rank 0",
            "any": [True, False],
        }


def test_a_process_alone_has_what_it_gives_and_imports_no_collectives() -> None:
    tensor = torch.ones(2)
    with joined_processes() as group:
        assert group is processes()
        assert group.sum(tensor) is group.mean(tensor) is tensor
        assert (group.stack(tensor).shape, group.gather(3), group.any(True)) == ((1, 2), [3], True)
        assert group.share(5, "batch_size") == slice(0, 5)
    code = (
        "import sys; import speaker_verification.common.distributed as d\nwith d.joined_processes(): pass\n"
    )
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize(("count", "size", "remedy"), [(64, 3, "63 or 66"), (2, 3, "3"), (7, 2, "6 or 8")])
def test_a_share_that_is_not_whole_is_refused_with_the_numbers(count: int, size: int, remedy: str) -> None:
    group = Processes()
    group.size = size
    message = rf"'batch_size' is {count}, which {size} processes .* set it to {remedy},"
    with pytest.raises(ParameterError, match=message):
        group.share(count, "batch_size")


def fail_on(rank: int, how: str) -> None:
    """One process fails, the others wait for it; process 2 by an endless computation."""
    group = processes()
    if group.rank == rank:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("file 'x.wav' is empty") if how == "a user's error" else KeyError("x")
    if group.rank == 2:
        time.sleep(1000)
    group.sum(torch.ones(1))


@pytest.mark.project
@pytest.mark.parametrize(
    ("how", "own", "told"),
    [
        ("a user's error", "DataError: rank 1 on host {0}: file 'x.wav' is empty", "file 'x.wav' is empty"),
        ("a defect", "KeyError: 'x'", "KeyError: 'x'"),
    ],
)
def test_a_failure_of_one_ends_all_within_seconds_and_is_told_with_rank_and_host(
    how: str, own: str, told: str
) -> None:
    started = time.monotonic()
    waiting, failed, busy = run_processes(3, fail_on, 1, how)
    host = socket.gethostname()
    assert failed.error == own.format(host)
    assert waiting.error.startswith(f"PeerError: rank 0 on host {host} ends because of another process: ")
    assert waiting.error.endswith(f"rank 1 on host {host}: {told}")
    assert [outcome.exit_code for outcome in (waiting, failed, busy)] == [1, 1, 1]
    assert time.monotonic() - started < 60


@pytest.mark.project
def test_a_process_that_is_killed_ends_the_others() -> None:
    waiting, killed = run_processes(2, fail_on, 1, "dies")
    assert waiting.error.startswith("PeerError: rank 0 on host ")
    assert (waiting.exit_code, killed.exit_code) == (1, -signal.SIGKILL)


def die_while_others_meet() -> None:
    if processes().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    processes().meet("long work is done")


@pytest.mark.project
def test_a_process_that_is_killed_ends_those_that_wait_without_a_limit() -> None:
    first, _, third = run_processes(3, die_while_others_meet)
    assert first.error.endswith(f"rank 1 on host {socket.gethostname()} has died")
    assert (first.exit_code, third.exit_code) == (1, 1)


def end_after_another() -> None:
    """The second process fails; torchrun ends the first one before that has noticed."""
    if processes().rank == 1:
        raise DataError("file 'x.wav' is empty")
    time.sleep(1)
    exit_on_signal(signal.SIGTERM, None)


@pytest.mark.project
def test_a_process_that_torchrun_ends_tells_of_the_failure() -> None:
    ended, _ = run_processes(2, end_after_another)
    host = socket.gethostname()
    assert ended.error.endswith(f"because of another process: rank 1 on host {host}: file 'x.wav' is empty")


ONCE_UNLUCKY = """
import pathlib, sys, threading
from speaker_verification.common.distributed import joined_processes
from speaker_verification.common.errors import DataError

try:
    with joined_processes() as group:
        failed = pathlib.Path(sys.argv[1])
        if group.rank == 1 and not failed.exists():
            failed.touch()
            raise DataError("file 'x.wav' is empty")
        print(f"together again: {group.gather(group.rank)}" if group.any(True) else "")
finally:
    print(f"threads left: {threading.active_count()}")
"""


@pytest.mark.project
def test_torchrun_shows_the_failure_and_starts_all_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ONCE_UNLUCKY)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=1",
    ]
    command = [*launcher, str(tmp_path / "script.py"), str(tmp_path / "failed")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"DataError: rank 1 on host {socket.gethostname()}: file 'x.wav' is empty" in run.stderr
    assert run.stdout.count("together again: [0, 1]") == 2
    # Others may abort Python as it ends. The first process may not come to its end the first time.
    assert run.stdout.count("threads left: 1") == run.stdout.count("threads left") >= 3


@pytest.mark.parametrize("has_gone", [False, True])
def test_processes_that_cannot_be_reached_are_told_by_address(
    monkeypatch: pytest.MonkeyPatch, has_gone: bool
) -> None:
    """Nor does a process wait long for a torchrun that has been killed."""
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", str(has_gone))
    monkeypatch.setattr(distributed, "CONNECT_SECONDS", 1)
    message = r"127\.0\.0\.1:1 .* within 1 s: .*GLOO_SOCKET_IFNAME"
    with pytest.raises(UserError, match=message), joined_processes(join_seconds=600 if has_gone else 1):
        pass
    assert not processes().joined


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_fewer_gpus_than_processes_are_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    group = Processes()
    group.joined, group.local_size = True, 4
    monkeypatch.setattr(distributed, "_current", group)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ParameterError, match=r"4 processes on this host need a GPU each and it has 2: use auto and"
    ):
        resolve_device(name)
