"""Walking over long arrays in pieces, so that memory does not grow with the number of rows."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

GIGABYTE = 1e9


@dataclass(frozen=True)
class Workspace:
    """What a computation over many rows may use.

    Attributes:
        memory_gigabytes: working memory beside what goes in and comes out, 1e9 bytes each.
        num_threads: None takes one for each core that the process may use.
        device: auto, cpu or cuda:N; matrix products alone go to a GPU.
    """

    memory_gigabytes: float = 1.0
    num_threads: int | None = None
    device: str = "cpu"

    @property
    def threads(self) -> int:
        """How many threads compute."""
        if self.num_threads is not None:
            return self.num_threads
        # Where a process can be bound to some of the cores, only those count.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def rows_that_fit(self, bytes_of_row: float, share: float = 1.0) -> int:
        """Rows of so many bytes, at least one, that a share of the working memory holds."""
        return max(1, int(share * self.memory_gigabytes * GIGABYTE / bytes_of_row))

    def over_blocks(self, num_rows: int, rows_per_block: int, work: Callable[[slice], None]) -> None:
        """Do the work on every block of rows, some of them at once, each with a single BLAS thread."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(work, row_blocks(num_rows, rows_per_block)):
                pass

    def score(
        self, num_trials: int, trials_per_block: int, scores_of: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        """The scores of all blocks of trials, float64 (trials,)."""
        scores = np.empty(num_trials)

        def work(trials: slice) -> None:
            scores[trials] = scores_of(trials)

        self.over_blocks(num_trials, trials_per_block, work)
        return scores


def row_blocks(num_rows: int, rows_per_block: int) -> Iterator[slice]:
    """Yield the slices that cover `num_rows` rows in order, each of at most `rows_per_block` rows."""
    for start in range(0, num_rows, rows_per_block):
        yield slice(start, min(start + rows_per_block, num_rows))


def passing_over(array: np.ndarray, rows_per_block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the blocks of an array with their slices; those of a memory map leave memory after use."""
    for rows in row_blocks(len(array), rows_per_block):
        yield rows, array[rows]
        forget_pages(array)


def gather(array: np.ndarray, rows: np.ndarray, rows_per_block: int = 8192) -> np.ndarray:
    """Copy rows (rows,) out of an array; of a memory map, little more than these rows is ever in memory."""
    gathered = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for block in row_blocks(len(rows), rows_per_block):
        gathered[block] = array[rows[block]]
        forget_pages(array)
    return gathered


def forget_pages(array: np.ndarray) -> None:
    """Let a memory map's pages go; what is needed again is mapped again from the file."""
    if isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        pages: Any = array.base
        if isinstance(pages, mmap.mmap):
            pages.madvise(mmap.MADV_DONTNEED)
