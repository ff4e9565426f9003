"""Processes that work on one thing together, as torchrun starts them, and their collectives.

A process that torchrun has started joins the others with `joined_processes`. Any other is a process alone,
for which every collective returns its input, and torch.distributed is not imported. All processes call the
same collectives in the same order. GPU tensors are exchanged by NCCL, all else by gloo.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from speaker_verification.common.errors import ParameterError, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

logger = logging.getLogger(__name__)
JOIN_SECONDS = 120.0
CONNECT_SECONDS = 20.0  # to torchrun's store, which is there first: one that is not has gone with torchrun
COLLECTIVE_SECONDS = 600.0  # a process that has died is noticed at once, one that hangs after this time
UNLIMITED = timedelta(days=365)
POLL_SECONDS, WATCH_SECONDS, GRACE_SECONDS = 0.05, 1.0, 10.0
FAILURE = "failure"  # key in the store: the first failure of a process
EVENT, HOST = "event/", "host/"  # prefixes of the keys of announced events, and of hosts by rank

Value = TypeVar("Value")


class PeerError(UserError):
    """This process ends because another one has failed or cannot be reached."""


class JoinError(UserError):
    """This process cannot reach the others, so that it can tell them nothing."""


class Processes:
    """A process alone: rank 0 of 1.

    Attributes:
        rank: number of this process among all.
        size: number of processes N.
        local_rank: number of this process on its host, and of its GPU.
        local_size: number of processes on this host.
        joined: whether collectives communicate.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    joined = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files, tracks and reports."""
        return self.rank == 0

    def share(self, count: int, name: str) -> slice:
        """Contiguous share of this process in `count` things.

        Args:
            count: number of things.
            name: parameter that gives it, for the message.

        Raises:
            ParameterError: the number of processes does not divide it.
        """
        each, over = divmod(count, self.size)
        if over:
            fitting = [number for number in (count - over, count - over + self.size) if number]
            raise ParameterError(
                f"parameter '{name}' is {count}, which {self.size} processes cannot share evenly: "
                f"set it to {' or '.join(map(str, fitting))}, or start another number of processes"
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of the processes' tensors, of one shape and type; without gradients, maybe in place."""
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of the processes' tensors, as `sum`."""
        return tensor

    def stack(self, tensor: Tensor) -> Tensor:
        """The processes' tensors, stacked in the order of their ranks: (N, ...)."""
        return tensor[None]

    def gather(self, value: Value) -> list[Value]:
        """Values of all processes in the order of their ranks, which are pickled; all get all of them."""
        return [value]

    def first(self, value: Value) -> Value:
        """Value of the first process, which is pickled."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def wait(self) -> None:
        """Return when all processes have called this."""

    def announce(self, event: str, value: Any = None) -> None:
        """Tell the other processes of an event by its name, with a value of plain JSON types."""

    def await_event(self, event: str) -> Any:
        """Value of an event, as soon as another process has announced it, however long that takes.

        Raises:
            PeerError: another process has failed.
        """
        raise RuntimeError(f"a process alone would wait for '{event}' forever")

    def meet(self, event: str) -> None:
        """Return when all processes have come to an event of this name, however long that takes.

        Unlike `wait` it has no limit of time, for work that is shared out and takes some processes longer.
        """
        self.announce(f"{event} {self.rank}")
        for rank in range(self.size):
            if rank != self.rank:
                self.await_event(f"{event} {rank}")

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Context in which an exception of one process ends the others too.

        Raises:
            PeerError: another process has failed.
        """
        yield


_current = Processes()


def is_started_by_torchrun() -> bool:
    """Whether torchrun has started this process, as its environment variables say."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def is_first_process() -> bool:
    """Whether this process is alone, or the first of those that torchrun has started."""
    return not is_started_by_torchrun() or os.environ["RANK"] == "0"


def processes() -> Processes:
    """The processes that this one has joined, or itself alone."""
    return _current


@contextmanager
def joined_processes(
    join_seconds: float = JOIN_SECONDS, collective_seconds: float = COLLECTIVE_SECONDS
) -> Iterator[Processes]:
    """Join the processes that torchrun has started, until the end of the block; see `failing_together`.

    Without torchrun's environment variables (RANK, WORLD_SIZE) this process stays alone. Of processes other
    than the first, only errors are logged.

    Args:
        join_seconds: time in s in which all processes must have joined.
        collective_seconds: time in s after which a collective gives up processes that do not answer.

    Raises:
        JoinError: the others cannot be reached.
        PeerError: another process has failed.
    """
    global _current
    if _current.joined or not is_started_by_torchrun():
        yield _current
        return
    group = _JoinedProcesses(join_seconds, collective_seconds)
    disabled = logging.root.manager.disable
    _current = group
    try:
        if not group.is_first:
            logging.disable(logging.WARNING)
        with group.failing_together():
            yield group
            group.wait()
            group.take_leave()
    finally:
        _current = Processes()
        logging.disable(disabled)
        group.leave()


class _JoinedProcesses(Processes):
    """One of several processes, which have a group of torch.distributed."""

    joined = True

    def __init__(self, join_seconds: float, collective_seconds: float) -> None:
        import torch
        from torch import distributed

        self._torch, self._distributed = torch, distributed
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        limit_seconds = min(join_seconds, CONNECT_SECONDS) if is_torchruns else join_seconds
        limit = time.monotonic() + limit_seconds
        try:
            _await_store(limit, is_torchruns)
            limit += join_seconds - limit_seconds
            limit_seconds = join_seconds
            store, self.rank, self.size = next(distributed.rendezvous("env://", timeout=_until(limit)))
            self.name = f"rank {self.rank} on host {socket.gethostname()}"
            store.set_timeout(_until(limit))
            attempt = _agree_on_attempt(store, self.rank, self.size, limit)
            self._store = distributed.PrefixStore(attempt, store)
            self._start(self._watch)
            self._connect(_until(limit), timedelta(seconds=collective_seconds))
        except (RuntimeError, OSError, ValueError) as error:
            raise self._join_error(error, limit_seconds) from error
        if self.size > 1:
            self._start(self._watch_next)

    def _start(self, watch: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=watch, daemon=True))
        self._threads[-1].start()

    def _connect(self, join_time: timedelta, collective_time: timedelta) -> None:
        backend = "cpu:gloo,cuda:nccl" if self._torch.cuda.is_available() else "gloo"
        self._distributed.init_process_group(
            backend,
            store=self._distributed.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=join_time,
        )
        self._distributed.distributed_c10d._set_pg_timeout(collective_time)
        self._watching = self._distributed.new_group(backend="gloo", timeout=UNLIMITED)
        self._store.set(f"{HOST}{self.rank}", socket.gethostname())

    def _join_error(self, error: Exception, seconds: float) -> JoinError:
        """The error of this process, of which those are told that have come so far too."""
        self._end_watches()
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0]
        message = (
            f"cannot join the other processes through {address} (MASTER_ADDR, MASTER_PORT) within "
            f"{seconds:g} s: {reason}; is that host reachable, are all processes started, and do host names "
            "resolve to addresses that other hosts reach (else set GLOO_SOCKET_IFNAME to the interface)?"
        )
        if hasattr(self, "_store"):
            with suppress(RuntimeError):
                self._store.compare_set(FAILURE, "", f"{self.name}: {message}")
        return JoinError(message)

    def sum(self, tensor: Tensor) -> Tensor:
        with self._communicating():
            self._distributed.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        return self.sum(tensor).div_(self.size)

    def stack(self, tensor: Tensor) -> Tensor:
        tensors = [self._torch.empty_like(tensor) for _ in range(self.size)]
        with self._communicating():
            self._distributed.all_gather(tensors, tensor)
        return self._torch.stack(tensors)

    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        with self._communicating():
            self._distributed.all_gather_object(values, value)
        return values

    def first(self, value: Value) -> Value:
        values = [value]
        with self._communicating():
            self._distributed.broadcast_object_list(values)
        return values[0]

    def any(self, flag: bool) -> bool:
        # On the CPU: no device is waited for, and gloo notices at once that a process has died.
        return bool(self.sum(self._torch.tensor(int(flag))))

    def wait(self) -> None:
        self.any(False)

    def announce(self, event: str, value: Any = None) -> None:
        with self._communicating():
            self._store.set(f"{EVENT}{event}", json.dumps(value))

    def await_event(self, event: str) -> Any:
        with self._communicating():
            while not self._store.check([f"{EVENT}{event}"]):
                if self._store.check([FAILURE]):
                    raise PeerError(self._blame(""))
                time.sleep(POLL_SECONDS)
            return json.loads(self._store.get(f"{EVENT}{event}"))

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._ended.is_set():
                raise
            if isinstance(error, SystemExit) and self._failure_of_another():
                # torchrun ends those that are left, who may not have noticed yet.
                peer_error = PeerError(self._blame(""))
                self._fail(peer_error)
                raise peer_error from error
            self._fail(error)
            raise

    def take_leave(self) -> None:
        """Tell the process that watches this one that it does not die."""
        if self.size > 1:
            with self._communicating():
                self._distributed.send(self._torch.ones(1), (self.rank - 1) % self.size, self._watching)

    def leave(self) -> None:
        """Give up the group."""
        self._end_watches()
        if self._distributed.is_initialized():
            self._distributed.destroy_process_group()

    def _end_watches(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(WATCH_SECONDS)  # in a call of torch's when Python ends, it would abort this process

    def _fail(self, error: BaseException) -> None:
        """Tell the other processes of an error, and close the connections that they may wait for."""
        self._ended.set()
        if not isinstance(error, PeerError):
            if isinstance(error, UserError):
                error.args = (f"{self.name}: {error}",)
                failure = str(error)
            else:
                failure = f"{self.name}: {type(error).__name__}: {error}"
                if isinstance(error, Exception):
                    logger.error("%s", failure)
            with suppress(RuntimeError):  # the process that holds the store has ended
                self._store.compare_set(FAILURE, "", failure)
        with suppress(PeerError):
            self.take_leave()
        with suppress(RuntimeError):
            # Not destroyed, which would wait for the others.
            self._distributed.distributed_c10d._abort_process_group()

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PeerError(self._blame(f"no answer from another process ({reason})")) from error

    def _failure_of_another(self) -> str:
        """The first failure of a process; empty where none is known."""
        with suppress(RuntimeError):  # the process that holds the store has ended
            if self._store.check([FAILURE]):
                return self._store.get(FAILURE).decode()
        return ""

    def _blame(self, otherwise: str) -> str:
        """The first failure of another process, or else what this one has noticed."""
        return f"{self.name} ends because of another process: {self._failure_of_another() or otherwise}"

    def _watch(self) -> None:
        """End this process where it does not notice by itself that another one has failed."""
        failed = False
        while not failed and not self._ended.wait(WATCH_SECONDS):
            try:
                failed = self._store.check([FAILURE])
            except RuntimeError:
                failed = True
        if failed and not self._ended.wait(GRACE_SECONDS):
            logger.critical("%s", self._blame("the process that holds their store has ended"))
            os._exit(1)

    def _watch_next(self) -> None:
        """Tell all processes when the next one has died, also where none of them communicates with it."""
        rank = (self.rank + 1) % self.size
        try:
            self._distributed.recv(self._torch.empty(1), rank, self._watching)
        except RuntimeError:  # its connections are closed
            if not self._ended.is_set():
                with suppress(RuntimeError):
                    host = self._store.get(f"{HOST}{rank}").decode()
                    self._store.compare_set(FAILURE, "", f"rank {rank} on host {host} has died")


def _until(limit: float) -> timedelta:
    """Time that is left until a limit of the monotonic clock, at least a second."""
    return timedelta(seconds=max(limit - time.monotonic(), 1.0))


def _await_store(limit: float, is_torchruns: bool) -> None:
    """Return when the store accepts connections; torch's own waiting ends long after its limit.

    Raises:
        OSError: it does not until the limit.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    holds_it = os.environ["RANK"] == "0" and not is_torchruns
    while address and port.isdigit() and not holds_it:
        try:
            socket.create_connection((address, int(port)), _until(limit).total_seconds()).close()
            return
        except OSError:
            if time.monotonic() > limit:
                raise
            time.sleep(POLL_SECONDS)


def _agree_on_attempt(store: Store, rank: int, size: int, limit: float) -> str:
    """Name of this attempt to join, for the keys of a store that may have those of earlier attempts.

    torchrun starts processes again on the same store, and counts the attempts differently on each host. So
    every process enters a new name of its own; the first one proposes the names that it finds, until all have
    confirmed that theirs is among them.

    Raises:
        TimeoutError: a process is missing.
    """
    own = uuid.uuid4().hex
    store.set(f"name/{rank}", own)
    while time.monotonic() < limit:
        if rank == 0:
            store.set("attempt", " ".join(store.get(f"name/{other}").decode() for other in range(size)))
        names = store.get("attempt").decode()
        attempt = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
        if own in names:
            store.set(f"{attempt}/confirmed/{rank}", "")
        if rank == 0 and store.check([f"{attempt}/confirmed/{other}" for other in range(size)]):
            store.set(f"{attempt}/agreed", "")
        if own in names and store.check([f"{attempt}/agreed"]):
            return attempt
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not all {size} processes have joined")
