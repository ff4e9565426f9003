"""Precision of a model's forward pass by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context in which matrix products and convolutions of float32 tensors have a precision.

    `float32` is exact float32, also in convolutions, which torch computes in TF32 on a GPU unless told
    otherwise; `tf32` rounds factors to 10 bits of mantissa on a GPU and is float32 on a CPU; `bfloat16` is
    autocast.

    Args:
        precision: name of the precision.
        device: device of the tensors.
    """
    import torch

    products = _gpu_products("tf32" if precision == "tf32" else "ieee")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with products if device.type == "cuda" else nullcontext(), autocast:
        yield


@contextmanager
def _gpu_products(precision: str) -> Iterator[None]:
    import torch

    backends: Any = torch.backends  # whose stubs lack `conv`
    kinds = (backends.cuda.matmul, backends.cudnn.conv)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = precision
        yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value
