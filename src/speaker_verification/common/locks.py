"""Advisory locks on files and folders: one run at a time, across processes and hosts, with the holder's name.

A lock is an entry: a hidden JSON file `.ID.lock` beside the locked paths, with the holder and the locked
names of that folder. A run first writes its entry and then lists the others, so that of two concurrent runs
at least one sees the other; a run that sees a live rival for the same name withdraws its entry. Entry names
are never reused, so several runs can remove a dead holder's entry at once. The shared file system only needs
atomic renames, and listings that show every earlier rename.

A holder on this machine is alive while its process runs (matched by PID and start time). A holder on another
machine is alive while the heartbeat thread of its process renews the entry's modification time.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import logging
import os
import random
import re
import secrets
import signal
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import ParamSpec, TypeVar

from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError, UserError
from speaker_verification.common.termination import exit_on_signal, handle_termination

logger = logging.getLogger(__name__)

BEAT_SECONDS = 30.0  # heartbeat interval
STALE_SECONDS = 300.0  # without a heartbeat, after which a holder on another machine counts as dead
ATTEMPTS = 5  # two runs that see each other both withdraw, so one refusal is no proof
FIRST_WAIT_SECONDS = 0.05  # upper limit of the first random back-off, doubled at each attempt
ELSEWHERE = "another folder"
_ENTRY = re.compile(r"\.[0-9a-f]{16}\.lock")
_PASSWORD = re.compile(r"//[^/\s]*@")  # in an address

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class InUseError(UserError):
    """A file or folder is locked by another live run."""


@dataclass(frozen=True)
class Holder:
    """Holder of a lock, as recorded in an entry.

    Attributes:
        what: name of the run, for messages.
        host: host name, for messages.
        machine: boot id and PID namespace.
        pid: process id.
        started: start time of the process in clock ticks since boot; empty where unknown.
        since: time of locking, in seconds since 1970.
        command: command line of the process, for people who read the entry.
    """

    what: str
    host: str
    machine: str
    pid: int
    started: str
    since: float
    command: str

    def is_alive(self, silent_seconds: float) -> bool:
        """True while the holder is running.

        Args:
            silent_seconds: time since its last heartbeat.
        """
        if self.machine == _machine() and os.name == "posix":
            if not _is_running(self.pid):
                return False
            if self.started and (started := _start_of(self.pid)):
                return started == self.started
        return silent_seconds < STALE_SECONDS

    def __str__(self) -> str:
        began = datetime.fromtimestamp(self.since, timezone.utc).astimezone()
        today = began.date() == datetime.now(began.tzinfo).date()
        time_of_day = f"{began:%H:%M}" if today else f"{began:%Y-%m-%d %H:%M}"
        return f"{self.what} is running since {time_of_day} (process {self.pid} on host {self.host})"


@dataclass(frozen=True)
class _Entry:
    """Lock entry of one folder: its file, its holder and the locked names."""

    file: Path
    holder: Holder
    names: frozenset[str]

    @property
    def paths(self) -> set[Path]:
        return {self.file.parent / name for name in self.names}

    def write(self) -> None:
        try:
            self._write()
        except FileNotFoundError:
            self._write()  # another run that had made the folder has just removed it, empty

    def _write(self) -> None:
        with atomic_write(self.file) as part:
            part.write_text(json.dumps({**asdict(self.holder), "names": sorted(self.names)}, indent=2))
            with suppress(OSError):
                part.chmod(0o644)  # other users of a shared folder must be able to read the holder

    @classmethod
    def read(cls, file: Path) -> _Entry | None:
        """Entry read from a file; None if it was released meanwhile or is truncated."""
        try:
            values = json.loads(file.read_text())
            holder = Holder(**{known.name: values[known.name] for known in fields(Holder)})
            return cls(file, holder, frozenset(values["names"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass
class _Held:
    """Locks of this process."""

    times: Counter[Path] = field(default_factory=Counter)
    entries: list[_Entry] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)  # folders made for entries, deepest first
    changing: threading.RLock = field(default_factory=threading.RLock)
    beating: threading.Thread | None = None
    restore_termination: Callable[[], None] = field(default=lambda: None)


_held = _Held()


def _begin_child() -> None:
    """Inherited locks in a forked process, which must not release them."""
    _held.changing, _held.beating = threading.RLock(), None


os.register_at_fork(after_in_child=_begin_child)


class Hold:
    """Paths locked until `release`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)

    def release(self) -> None:
        """Unlock the paths that no other `Hold` of this process covers."""
        with _held.changing:
            _held.times -= Counter(self._paths)
            self._paths = []
            _leave([entry for entry in _held.entries if entry.paths.isdisjoint(_held.times)])


def hold(paths: Iterable[Path], what: str, elsewhere: str = ELSEWHERE) -> Hold:
    """Lock files and folders, existing or not, for this process and its child processes.

    Locks are re-entrant within a process, across threads. Under torchrun rank 0 locks for all ranks.

    Args:
        paths: files and folders to lock; missing parent folders are made, and removed again if left empty.
        what: name of this run, shown to other runs.
        elsewhere: alternative place to work in, for messages.

    Raises:
        InUseError: another live run holds one of the paths.
        DataError: no lock file can be written there.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        return Hold([])
    wanted = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    with _held.changing:
        _announce([path for path in wanted if not _held.times[path]], _this_process(what), elsewhere)
        _held.times.update(wanted)
        _keep_alive()
    return Hold(wanted)


@contextmanager
def holding(paths: Iterable[Path], what: str, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """`hold` as a context manager."""
    held = hold(paths, what, elsewhere)
    try:
        yield
    finally:
        held.release()


def holds(argument: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator that locks the path given by one of the function's arguments, as `hold`.

    Args:
        argument: name of that argument.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def locked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            path = signature.bind(*args, **kwargs).arguments[argument]
            with holding([path], function.__name__):
                return function(*args, **kwargs)

        return locked

    return decorate


def _announce(paths: Iterable[Path], holder: Holder, elsewhere: str) -> None:
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for attempt in range(ATTEMPTS):
        entries = [
            _Entry(folder / f".{secrets.token_hex(8)}.lock", holder, frozenset(found))
            for folder, found in names.items()
        ]
        _enter(entries, elsewhere)
        try:
            rivals = _rivals_of(entries)
        except BaseException:
            _leave(entries)
            raise
        if not rivals:
            return
        _leave(entries)
        if attempt + 1 == ATTEMPTS:
            raise InUseError(f"{rivals[0]}: wait for it, or use {elsewhere}")
        time.sleep(random.uniform(0, FIRST_WAIT_SECONDS * 2**attempt))


def _enter(entries: Iterable[_Entry], elsewhere: str) -> None:
    entered: list[_Entry] = []
    for entry in entries:
        folder = entry.file.parent
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        _held.made[:0] = missing
        entered.append(entry)
        _held.entries.append(entry)
        try:
            entry.write()
        except OSError as error:
            _leave(entered)
            raise DataError(
                f"cannot write to '{folder}': {error.strerror}; make room or make it writable, "
                f"or use {elsewhere}"
            ) from error


def _leave(entries: Iterable[_Entry]) -> None:
    """Remove entries of this process, and folders made for them that are empty."""
    for entry in entries:
        _held.entries.remove(entry)
        if entry.holder.pid == os.getpid():
            _remove(entry.file)
    if _held.entries:
        return
    made, _held.made = _held.made, []
    for folder in made:
        with suppress(OSError):  # not empty any more
            folder.rmdir()
    _held.restore_termination()


def _rivals_of(entries: Iterable[_Entry]) -> list[str]:
    """Descriptions of live runs that hold a name of these entries; entries of dead runs are removed."""
    own = {entry.file for entry in _held.entries}
    rivals: list[str] = []
    dead: dict[tuple[str, int], _Entry] = {}
    for entry in entries:
        folder = entry.file.parent
        now = entry.file.stat().st_mtime  # the file system's clock, common to all hosts
        for name in os.listdir(folder):
            if not _ENTRY.fullmatch(name) or folder / name in own:
                continue
            try:
                silent_seconds = now - (folder / name).stat().st_mtime
            except OSError:
                continue  # released meanwhile
            other = _Entry.read(folder / name)
            if other is None:
                if silent_seconds > STALE_SECONDS:
                    _remove(folder / name)
            elif not other.holder.is_alive(silent_seconds):
                dead[other.holder.machine, other.holder.pid] = other
                _remove(folder / name)
            elif (common := sorted(other.names & entry.names)) and not _works_for(other.holder):
                rivals.append(f"{other.holder} in {folder / common[0]}{_last_seen(other.holder)}")
    for other in dead.values():
        logger.warning(
            "%s: lock taken over from %s (process %d on host %s), which ended without releasing it",
            *(other.file.parent, other.holder.what, other.holder.pid, other.holder.host),
        )
    return rivals


def _remove(file: Path) -> None:
    with suppress(OSError):  # owned by another user: harmless, since its holder is dead
        file.unlink(missing_ok=True)


def _last_seen(holder: Holder) -> str:
    if holder.machine == _machine():
        return ""
    return f" (its lock is taken over after {STALE_SECONDS / 60:g} minutes without a heartbeat)"


def _this_process(what: str) -> Holder:
    return Holder(
        what=what,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        since=time.time(),
        command=_PASSWORD.sub("//...@", " ".join(sys.argv)),
    )


@functools.cache
def _machine() -> str:
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the process name; empty if unreadable."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_of(pid: int) -> str:
    found = _stat_of(pid)
    return found[19] if found else ""


def _is_running(pid: int) -> bool:
    found = _stat_of(pid)
    if found:
        return found[0] not in "ZX"  # Z, X: dead, not yet reaped
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process, where /proc hides those
    return True


def _works_for(holder: Holder) -> bool:
    """True if this process is the holder or one of its descendants."""
    if holder.machine != _machine():
        return False
    pid = os.getpid()
    while pid > 1 and pid != holder.pid:
        found = _stat_of(pid)
        pid = int(found[1]) if found else 0
    return pid == holder.pid and (pid > 1 or pid == os.getpid())  # 1 adopts orphans, so it proves nothing


def _keep_alive() -> None:
    """Start the heartbeat; release the locks at exit and on SIGTERM."""
    if not _held.entries:
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        _held.restore_termination = handle_termination(exit_on_signal)
    if _held.beating is None:
        atexit.register(_leave_all)
        _held.beating = threading.Thread(target=_beat, name="locks", daemon=True)
        _held.beating.start()


def _leave_all() -> None:
    with _held.changing:
        _leave(list(_held.entries))


def _beat() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with _held.changing:
            for entry in _held.entries:
                if entry.holder.pid == os.getpid():
                    _renew(entry)


def _renew(entry: _Entry) -> None:
    """Renew the heartbeat; if the lock was taken over meanwhile, lock again or stop the run."""
    try:
        os.utime(entry.file)
    except FileNotFoundError:
        if not entry.file.parent.is_dir():
            return
        with suppress(OSError):
            entry.write()
            if rivals := _rivals_of([entry]):
                _remove(entry.file)
                logger.error(
                    "this run counted as dead after %g minutes without a heartbeat, and stops: %s",
                    *(STALE_SECONDS / 60, rivals[0]),
                )
                # Not SIGTERM, on which training would save over its successor's state.
                if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs
                    os._exit(128 + signal.SIGINT)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    except OSError as error:
        logger.debug("%s: heartbeat failed: %s", entry.file, error)
