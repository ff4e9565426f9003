"""Checked batches from NumPy arrays, tensors and single waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speaker_verification.common.errors import DataError

Waveforms = Tensor | npt.NDArray[np.floating[Any]]
Lengths = Tensor | npt.NDArray[np.integer[Any]] | Sequence[int] | int

LARGEST_SAMPLE = (
    2.0**31
)  # of 32-bit integer audio that was not scaled; far larger samples overflow activations


def as_batch(
    waveforms: Waveforms, num_samples: Lengths | None, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Checked waveforms and their lengths.

    Args:
        waveforms: float32 or float64, (B, samples) or one waveform (samples,).
        num_samples: length of each waveform, (B,); None without padding.
        device: device of the result.

    Returns:
        float32 (B, samples) on the device, and B lengths.

    Raises:
        DataError: the waveforms are of another type or shape, empty or not finite, or the lengths do not fit.
    """
    batch = _as_tensor(waveforms)
    if batch.dim() == 1:
        batch = batch.unsqueeze(0)
    refuse_no_batch(batch)
    batch = batch.to(device, torch.float32)
    lengths = _as_lengths(num_samples, *batch.shape)
    _refuse_non_finite(batch, lengths)
    return batch, lengths


def refuse_no_batch(waveforms: Tensor) -> None:
    """Refuse a tensor that is no batch of waveforms (B, samples).

    Raises:
        DataError: the tensor has other dimensions, no waveforms or no samples, or whole numbers.
    """
    shape = tuple(waveforms.shape)
    if waveforms.dim() != 2:
        raise DataError(f"waveforms are of shape {shape}: give (B, samples), one channel each")
    if not waveforms.is_floating_point():
        raise DataError(
            f"waveforms are {waveforms.dtype}: give float samples in -1..1{_from_whole(waveforms)}"
        )
    if 0 in shape:
        raise DataError(f"waveforms are of shape {shape}: they are empty")


def _as_tensor(waveforms: Any) -> Tensor:
    if isinstance(waveforms, np.ndarray):
        if waveforms.dtype.kind not in "fiu":
            raise DataError(f"waveforms are an array of {waveforms.dtype}: give float32 (B, samples)")
        # A copy: torch refuses negative strides.
        native = waveforms.astype(waveforms.dtype.newbyteorder("="))
        if native.dtype.itemsize > 8 and native.dtype.kind == "f":
            native = native.astype(np.float64)
        waveforms = torch.from_numpy(native)
    if not isinstance(waveforms, Tensor):
        raise DataError(
            f"waveforms are a {type(waveforms).__name__}: give a torch tensor or a NumPy array (B, samples); "
            "pad waveforms of several lengths and give num_samples"
        )
    if waveforms.is_meta or waveforms.layout != torch.strided:
        raise DataError("waveforms are a sparse tensor or one without data: give a dense one (B, samples)")
    if waveforms.is_floating_point() and waveforms.element_size() < 4:
        raise DataError(f"waveforms are {waveforms.dtype}, too coarse for samples: give float32")
    return waveforms


def _from_whole(waveforms: Tensor) -> str:
    return "; divide 16-bit samples by 32768" if waveforms.dtype == torch.int16 else ""


def _as_lengths(num_samples: Any, num_waveforms: int, width: int) -> list[int]:
    if num_samples is None:
        return [width] * num_waveforms
    try:
        given = num_samples.cpu().numpy() if isinstance(num_samples, Tensor) else np.asarray(num_samples)
    except ValueError as error:
        raise DataError(f"num_samples is a {type(num_samples).__name__} of mixed types: {error}") from error
    if given.dtype.kind not in "iu":
        raise DataError(f"num_samples is of {given.dtype}: give whole numbers")
    if given.ndim > 1 or given.size != num_waveforms:
        raise DataError(
            f"num_samples is of shape {given.shape} for {num_waveforms} waveforms: give one number for each"
        )
    lengths = [int(length) for length in np.atleast_1d(given)]
    for row, length in enumerate(lengths):
        if not 1 <= length <= width:
            raise DataError(f"num_samples of waveform {row} is {length}: it must be 1 to {width}")
    return lengths


def _refuse_non_finite(batch: Tensor, lengths: list[int]) -> None:
    """Refuse rows with NaN or infinity; the padding is not checked."""
    if all(abs(float(extreme)) <= LARGEST_SAMPLE for extreme in torch.aminmax(batch)):
        return
    for row, length in enumerate(lengths):
        possible = batch[row, :length].abs() <= LARGEST_SAMPLE
        if not possible.all():
            sample = int(possible.int().argmin())
            value = float(batch[row, sample])
            raise DataError(f"waveform {row} has {value} at sample {sample}: give samples in -1..1")
