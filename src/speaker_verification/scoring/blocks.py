"""Chunked processing of large arrays in bounded memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from speaker_verification.common.progress import progress_bar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

GIGABYTE = 1e9


@dataclass(frozen=True)
class ComputeBudget:
    """Memory, threads and device of a computation over many rows.

    Attributes:
        memory_gigabytes: working memory beside input and output, in units of 1e9 bytes.
        num_threads: None takes one for each core that the process may use.
        device: auto, cpu or cuda:N; matrix products alone go to a GPU.
        cohort_rows_per_block: cohort rows whose cosines are computed together: more than the speakers of any
            VoxCeleb set, so their means are one block.
        cosines_per_block: cosines computed together on the CPU: 4 MiB of float32, about a cache's size.
    """

    memory_gigabytes: float = 1.0
    num_threads: int | None = None
    device: str = "cpu"
    cohort_rows_per_block: int = 8192
    cosines_per_block: int = 2**20

    @property
    def threads(self) -> int:
        """Number of computing threads."""
        if self.num_threads is not None:
            return self.num_threads
        # Where a process can be bound to some of the cores, only those count.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def rows_that_fit(self, bytes_of_row: float, share: float = 1.0) -> int:
        """Number of rows, at least one, that fit into a share of the working memory."""
        return max(1, int(share * self.memory_gigabytes * GIGABYTE / bytes_of_row))

    def over_blocks(self, num_rows: int, rows_per_block: int, work: Callable[[slice], None]) -> None:
        """Run `work` on every block of rows, in parallel, each block with a single BLAS thread."""
        blocks = list(row_blocks(num_rows, rows_per_block))
        with _blas_libraries().limit(limits=1):
            if len(blocks) == 1:
                work(*blocks)
                return
            with ThreadPoolExecutor(self.threads) as pool, progress_bar("score", num_rows) as advance:
                for block, _ in zip(blocks, pool.map(work, blocks), strict=True):
                    advance(block.stop - block.start)

    def score(
        self, num_trials: int, trials_per_block: int, scores_of: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        """Scores of all trials, float64 (trials,), computed block by block."""
        scores = np.empty(num_trials)

        def work(trials: slice) -> None:
            scores[trials] = scores_of(trials)

        self.over_blocks(num_trials, trials_per_block, work)
        return scores


@cache
def _blas_libraries() -> ThreadpoolController:
    """BLAS libraries of the process; to find them takes longer than to score a trial."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def row_blocks(num_rows: int, rows_per_block: int) -> Iterator[slice]:
    """Yield the slices that cover `num_rows` rows in order, each of at most `rows_per_block` rows."""
    for start in range(0, num_rows, rows_per_block):
        yield slice(start, min(start + rows_per_block, num_rows))


def shown_blocks(description: str, num_rows: int, rows_per_block: int) -> Iterator[slice]:
    """Yield slices as `row_blocks`, and show the progress by its description."""
    with progress_bar(description, num_rows) as advance:
        for rows in row_blocks(num_rows, rows_per_block):
            yield rows
            advance(rows.stop - rows.start)


def passing_over(array: np.ndarray, rows_per_block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices and blocks of an array; pages of a memory map are released after use."""
    for rows in row_blocks(len(array), rows_per_block):
        yield rows, array[rows]
        forget_pages(array)


def gather(array: np.ndarray, rows: np.ndarray, rows_per_block: int = 8192) -> np.ndarray:
    """Copy of the given rows (rows,); of a memory map, little more than these rows is ever resident."""
    gathered = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for block in row_blocks(len(rows), rows_per_block):
        gathered[block] = array[rows[block]]
        forget_pages(array)
    return gathered


def forget_pages(array: np.ndarray) -> None:
    """Release a memory map's resident pages; they are read again from the file on the next access."""
    if isinstance(array, np.memmap) and array.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        pages: Any = array.base
        if isinstance(pages, mmap.mmap):
            pages.madvise(mmap.MADV_DONTNEED)
