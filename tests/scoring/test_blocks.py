from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from speaker_verification.scoring.blocks import ComputeBudget, gather, passing_over, row_blocks


def test_blocks_cover_the_rows_in_order() -> None:
    assert [(rows.start, rows.stop) for rows in row_blocks(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(row_blocks(0, 3)) == []


def test_a_share_of_the_memory_holds_so_many_rows_and_at_least_one() -> None:
    assert ComputeBudget(memory_gigabytes=0.002).rows_that_fit(1000) == 2000
    assert ComputeBudget(memory_gigabytes=0.002).rows_that_fit(1000, share=0.25) == 500
    assert ComputeBudget(memory_gigabytes=1e-9).rows_that_fit(1000) == 1


def test_blocks_are_worked_on_by_as_many_threads_as_allowed() -> None:
    together = threading.Barrier(2, timeout=10)  # one thread alone would wait in vain
    ComputeBudget(num_threads=2).over_blocks(4, 2, lambda _: together.wait())
    seen = set()
    ComputeBudget(num_threads=1).over_blocks(9, 2, lambda _: seen.add(threading.get_ident()))
    assert len(seen) == 1
    assert ComputeBudget().threads >= 1


def test_scores_come_in_the_order_of_the_trials_and_errors_come_through() -> None:
    values = np.arange(10.0)
    np.testing.assert_array_equal(
        ComputeBudget(num_threads=3).score(10, 3, lambda t: values[t] ** 2), values**2
    )
    with pytest.raises(ZeroDivisionError):
        ComputeBudget().score(2, 1, lambda t: values[t] / (1 // t.start))


def test_passing_over_a_memory_map_and_gathering_from_it_give_its_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6))
    np.save(tmp_path / "rows.npy", rows)
    for mode in ("r", "c", None):
        array = np.load(tmp_path / "rows.npy", mmap_mode=mode)
        blocks = [block.copy() for _, block in passing_over(array, 7)]
        np.testing.assert_array_equal(np.concatenate(blocks), rows)
        drawn = np.array([3, 3, 49, 0, 7])
        np.testing.assert_array_equal(gather(array, drawn, rows_per_block=2), rows[drawn])


def test_changes_to_a_private_memory_map_are_not_forgotten(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((4, 2)))
    array = np.load(tmp_path / "rows.npy", mmap_mode="c")
    array[1] = 5.0
    assert sum(block.sum() for _, block in passing_over(array, 1)) == 10
    assert array.sum() == 10
