"""One run at a time in a folder, whatever becomes of the runs."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speaker_verification.common import locks
from speaker_verification.common.errors import DataError
from speaker_verification.common.locks import InUseError, hold, holding, holds
from tests.support.locking import held_by_another
from tests.support.waiting import wait_until

# Every process counts those that are inside with it, by files that it makes there and removes.
CONTEND = """
import sys, time
from pathlib import Path
from speaker_verification.common.locks import InUseError, holding
folder, number, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
time.sleep(max(0, start - time.time()))
for _ in range(8):
    try:
        with holding([folder / "work"], number):
            (folder / f"inside_{number}").touch()
            print("inside", len(list(folder.glob("inside_*"))))
            time.sleep(0.02)
            (folder / f"inside_{number}").unlink()
    except InUseError:
        pass
"""


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".*.lock"))


def rewrite(entry: Path, **changes: Any) -> None:
    entry.write_text(json.dumps(json.loads(entry.read_text()) | changes))


def leave_entry(path: Path, age_seconds: float = 0, **changes: Any) -> None:
    """An entry as a killed run has left it."""
    with holding([path], "finetune"):
        (entry,) = entries(path.parent)
        text = entry.read_text()
    entry.write_text(text)
    rewrite(entry, **changes)
    then = time.time() - age_seconds
    os.utime(entry, (then, then))


def test_a_second_run_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "work") as other:
        with pytest.raises(InUseError) as caught, holding([tmp_path / "work"], "lmft", "another data_root"):
            pass
        assert other.poll() is None
    since = time.strftime("%H:")
    text = str(caught.value)
    assert text.startswith(f"finetune is running since {since}")
    assert f"(process {other.pid} on host {socket.gethostname()}) in {tmp_path / 'work'}" in text
    assert text.endswith(": wait for it, or use another data_root")
    assert "\n" not in text


def test_other_names_of_the_same_folder_are_free(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "a", tmp_path / "b"):
        with holding([tmp_path / "c", tmp_path / "other/a"], "measure"):
            assert len(entries(tmp_path)) == 3
        with pytest.raises(InUseError), holding([tmp_path / "c", tmp_path / "b"], "measure"):
            pass
        assert len(entries(tmp_path)) == 1


def test_a_killed_run_is_taken_over_at_once_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / "a/work", tmp_path / "b/work"]
    with held_by_another(*paths) as other:
        other.kill()  # and not waited for: its number is still taken
        status = Path(f"/proc/{other.pid}/status")
        wait_until(lambda: other.returncode is not None or b"State:\tZ" in status.read_bytes())
        assert len(entries(tmp_path)) == 2
        with holding(paths, "lmft"):
            assert {json.loads(entry.read_text())["what"] for entry in entries(tmp_path)} == {"lmft"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"lock taken over from finetune (process {other.pid} on host" in caplog.text
    assert not entries(tmp_path)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_unlocks(end: signal.Signals, tmp_path: Path) -> None:
    with held_by_another(tmp_path / "new/work") as other:
        other.send_signal(end)
        other.wait(10)
        assert other.returncode != 0
    assert not list(tmp_path.iterdir())


def test_an_error_unlocks_and_folders_that_are_still_empty_go(tmp_path: Path) -> None:
    def fail() -> None:
        with holding([tmp_path / "a/b/work", tmp_path / "c/work"], "embed"):
            (tmp_path / "c/result").touch()
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["c", "result"]


def test_a_process_number_that_is_used_again_is_no_holder(tmp_path: Path) -> None:
    leave_entry(tmp_path / "work", pid=os.getppid(), started="1")
    with holding([tmp_path / "work"], "lmft"):
        assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(("silent_seconds", "is_alive"), [(0, True), (200, True), (400, False)])
def test_a_run_on_another_host_is_alive_until_its_heartbeat_is_five_minutes_old(
    silent_seconds: float, is_alive: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_entry(tmp_path / "work", silent_seconds, machine="another", host="gpu7", pid=1)
    if is_alive:
        with pytest.raises(InUseError, match=r"process 1 on host gpu7.*after 5 minutes without a heartbeat"):
            hold([tmp_path / "work"], "lmft")
        assert len(entries(tmp_path)) == 1
    else:
        with holding([tmp_path / "work"], "lmft"):
            assert "taken over from finetune (process 1 on host gpu7)" in caplog.text
            assert len(entries(tmp_path)) == 1


def test_a_clock_that_differs_between_hosts_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_entry(tmp_path / "work", machine="another")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(InUseError):
        hold([tmp_path / "work"], "lmft")


def test_half_an_entry_of_a_machine_that_failed_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.lock").touch()
    with holding([tmp_path / "work"], "lmft"):
        pass
    os.utime(tmp_path / ".0123456789abcdef.lock", (1, 1))
    with holding([tmp_path / "work"], "lmft"):
        pass
    assert not entries(tmp_path)


@pytest.mark.project
def test_of_many_takers_of_a_dead_runs_folder_one_at_a_time_is_inside(tmp_path: Path) -> None:
    leave_entry(tmp_path / "work", pid=2**22 - 1, started="1")
    start = str(time.time() + 1.5)
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(tmp_path), str(number), start],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(5)
    ]
    printed = [taker.communicate(timeout=60)[0].splitlines() for taker in takers]
    lines = [line for lines in printed for line in lines]
    assert lines
    assert set(lines) == {"inside 1"}
    assert [taker.returncode for taker in takers] == [0] * 5
    assert not list(tmp_path.iterdir())


def test_a_process_holds_again_what_it_holds(tmp_path: Path) -> None:
    @holds("folder")
    def train(steps: int, folder: Path) -> int:
        assert len(entries(tmp_path)) == 1
        return steps

    results: list[int] = []
    outer = hold([tmp_path / "work"], "lmft")
    assert train(3, tmp_path / "work") == 3
    thread = threading.Thread(target=lambda: results.append(train(4, folder=tmp_path / "work")))
    thread.start()
    thread.join()
    assert results == [4]
    assert len(entries(tmp_path)) == 1
    outer.release()
    outer.release()
    assert not entries(tmp_path)
    assert train(5, tmp_path / "work") == 5
    assert not entries(tmp_path)


def test_processes_that_a_holder_starts_work_for_it(tmp_path: Path) -> None:
    with holding([tmp_path / "work"], "lmft"), held_by_another(tmp_path / "work", what="worker"):
        assert len(entries(tmp_path)) == 2
    assert len(entries(tmp_path)) == 1  # the killed worker's


def fork(job: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_process_unlocks_nothing_of_its_parents(tmp_path: Path) -> None:
    outer = hold([tmp_path / "work"], "lmft")
    assert fork(outer.release) == 0
    assert fork(locks._leave_all) == 0
    assert len(entries(tmp_path)) == 1
    outer.release()


def test_an_entry_shows_the_command_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedro", "run", "--params=prepare.mirror=http://ann:s3cret@host/a"])
    with holding([tmp_path / "work"], "download"):
        (entry,) = entries(tmp_path)
        assert (
            json.loads(entry.read_text())["command"] == "kedro run --params=prepare.mirror=http://...@host/a"
        )


def test_signs_of_life_are_given(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "work"):
        (entry,) = entries(tmp_path)
        os.utime(entry, (1, 1))
        wait_until(lambda: entry.stat().st_mtime > 1)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_that_was_taken_for_dead_stops_instead_of_writing_beside_its_successor(
    in_background: bool, tmp_path: Path
) -> None:
    with held_by_another(tmp_path / "work", in_background=in_background) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        (entry,) = entries(tmp_path)
        rewrite(entry, machine="another")
        os.utime(entry, (1, 1))
        with held_by_another(tmp_path / "work", what="lmft"):
            frozen.send_signal(signal.SIGCONT)
            _, errors = frozen.communicate(timeout=20)
            assert frozen.returncode != 0
            assert "this run counted as dead" in errors
            assert [json.loads(entry.read_text())["what"] for entry in entries(tmp_path)] == ["lmft"]


def test_a_lock_that_was_removed_by_hand_comes_back(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "work") as other:
        entries(tmp_path)[0].unlink()
        wait_until(lambda: entries(tmp_path))
        with pytest.raises(InUseError):
            hold([tmp_path / "work"], "lmft")
        assert other.poll() is None


def test_of_distributed_processes_the_first_one_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_by_another(tmp_path / "work"):
        monkeypatch.setenv("RANK", "1")
        with holding([tmp_path / "work"], "lmft"):
            assert len(entries(tmp_path)) == 1
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(InUseError):
            hold([tmp_path / "work"], "lmft")


def test_a_place_that_cannot_be_written_to_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write to '.*file': File exists; .* use another data_root"):
        hold([tmp_path / "new/work", tmp_path / "file/work"], "prepare", "another data_root")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_logging_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), holding([tmp_path / "work"], "lmft"):
        pass
    assert not caplog.records
