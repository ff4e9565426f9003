"""Selecting the highest cosines with a cohort, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speaker_verification.scoring.blocks import ComputeBudget, forget_pages, row_blocks
from speaker_verification.scoring.centring import centre_and_normalise, check_width


@dataclass(frozen=True)
class _Device:
    """Top-n selection on one device: upload, merge of earlier and new cosines, download."""

    place: Callable[[np.ndarray], Any]
    select: Callable[[Any, Any, int], Any]
    fetch: Callable[[Any], np.ndarray]


def _partition(highest: np.ndarray | None, cosines: np.ndarray, num_highest: int) -> np.ndarray:
    candidates = cosines if highest is None else np.concatenate([highest, cosines], axis=1)
    candidates.partition(candidates.shape[1] - num_highest, axis=1)
    return candidates[:, -num_highest:]


_CPU = _Device(lambda array: array, _partition, lambda array: array)


def _on_device(name: str) -> _Device:
    """NumPy on the CPU, whose selection is twice as fast as torch's there; torch on a GPU."""
    if name == "cpu":
        return _CPU
    from speaker_verification.common.device import resolve_device

    device = resolve_device(name)
    return _CPU if device.type == "cpu" else torch_device(device)


def torch_device(device: Any) -> _Device:
    """Selection by torch on the given device."""
    import torch

    def top_k(highest: torch.Tensor | None, cosines: torch.Tensor, num_highest: int) -> torch.Tensor:
        candidates = cosines if highest is None else torch.cat([highest, cosines], dim=1)
        return candidates.topk(num_highest, dim=1, sorted=False).values

    return _Device(
        lambda array: torch.from_numpy(array).to(device), top_k, lambda tensor: tensor.cpu().numpy()
    )


def highest_cosines(
    embeddings: np.ndarray,
    cohort: np.ndarray,
    num_highest: int,
    receive: Callable[[slice, np.ndarray], None],
    *,
    centre: np.ndarray | float,
    budget: ComputeBudget,
    cohort_is_normalised: bool = False,
) -> None:
    """Top-n cohort cosines of all embeddings, block by block.

    Args:
        embeddings: (N, E).
        cohort: (S, E).
        num_highest: how many of the S cosines are selected.
        receive: called by any thread with the rows of a block and their highest cosines
            (block, num_highest), in no order, which are its own to change.
        centre: (E,) subtracted from both.
        budget: memory, threads and device of the computation.
        cohort_is_normalised: whether the cohort is centred and of length 1 already.

    Raises:
        DataError: the widths differ, or an embedding has no direction.
    """
    check_width(embeddings, cohort.shape[1])
    dtype = np.promote_types(embeddings.dtype, np.float32)
    on_device = _on_device(budget.device)
    if on_device is not _CPU:
        budget = replace(budget, num_threads=1)  # that hand a GPU blocks as large as can be
    columns = max(budget.cohort_rows_per_block, 2 * num_highest)
    tiles = list(row_blocks(len(cohort), columns))

    def tile_directions(tile: slice) -> Any:
        of_tile = cohort[tile]
        directions = of_tile if cohort_is_normalised else centre_and_normalise(of_tile, centre, tile.start)
        return on_device.place(directions.astype(dtype, copy=False))

    # A cohort too large to be held is computed anew for each block, of which there are then fewer.
    is_held = len(cohort) <= budget.rows_that_fit(cohort.shape[1] * dtype.itemsize, share=0.5)
    held = [tile_directions(tile) for tile in tiles] if is_held else None
    # Cosines, their copy beside the highest so far, and the embeddings in float64.
    bytes_of_row = 3 * min(columns, len(cohort)) * dtype.itemsize + 24 * embeddings.shape[1]
    fitting = budget.rows_that_fit(bytes_of_row, share=0.25 / budget.threads)
    in_cache = max(1, budget.cosines_per_block // min(columns, len(cohort)))

    def select(rows: slice) -> None:
        directions = on_device.place(centre_and_normalise(embeddings[rows], centre, rows.start).astype(dtype))
        highest = None
        for number, tile in enumerate(tiles):
            cosines = directions @ (held[number] if held else tile_directions(tile)).T  # (block, tile)
            highest = on_device.select(highest, cosines, num_highest)
        receive(rows, on_device.fetch(highest))

    rows_per_block = min(in_cache, fitting) if is_held and on_device is _CPU else fitting
    budget.over_blocks(len(embeddings), rows_per_block, select)
    forget_pages(embeddings)
