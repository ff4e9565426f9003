"""A function of many classes, computed in chunks of them, so that never all their logits are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ClassSummary(NamedTuple):
    """All that a loss needs of some classes, whatever their number.

    Attributes:
        values: V numbers of every example, (V, B), or of P parts of the classes, (P, V, B).
        classes: one class of every example, (B,) or (P, B); without gradients.
    """

    values: Tensor
    classes: Tensor


class Summarise(Protocol):
    """Function from the weights of a chunk of classes, the first of which has a number, to their summary."""

    def __call__(self, weight: Tensor, first: int, *shared: Tensor) -> ClassSummary: ...


def summarise_chunks(
    summarise: Summarise, weight: Tensor, dim: int, length: int, *shared: Tensor
) -> ClassSummary:
    """Summaries (P, V, B), (P, B) of P chunks of classes, which the backward pass computes again.

    Args:
        summarise: function of a chunk, differentiable in its tensors.
        weight: weights of the classes.
        dim: dimension of the classes in `weight`.
        length: classes of a chunk.
        *shared: further tensors with gradients, the same for all chunks.
    """
    if weight.shape[dim] <= length:
        values, classes = summarise(weight, 0, *shared)
        return ClassSummary(values[None], classes[None])
    return ClassSummary(*_Chunks.apply(summarise, dim, length, weight, *shared))


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, summarise: Summarise, dim: int, length: int, weight: Tensor, *shared: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.summarise, ctx.dim, ctx.length = summarise, dim, length
        ctx.save_for_backward(weight, *shared)
        parts = [summarise(chunk, first, *shared) for first, chunk in _chunks(weight, dim, length)]
        values, classes = (torch.stack(same) for same in zip(*parts, strict=True))
        ctx.mark_non_differentiable(classes)
        return values, classes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weight, *shared = ctx.saved_tensors
        of_weight = torch.empty_like(weight)
        of_shared = [torch.zeros_like(tensor) for tensor in shared]
        chunks, places = _chunks(weight, ctx.dim, ctx.length), of_weight.split(ctx.length, ctx.dim)
        for (first, chunk), place, gradient in zip(chunks, places, gradients, strict=True):
            inputs = [tensor.detach().requires_grad_() for tensor in (chunk, *shared)]
            with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
                values, _ = ctx.summarise(inputs[0], first, *inputs[1:])
            own, *others = torch.autograd.grad(values, inputs, gradient)
            place.copy_(own)
            for total, other in zip(of_shared, others, strict=True):
                total += other
        return None, None, None, of_weight, *of_shared


def _chunks(weight: Tensor, dim: int, length: int) -> Iterator[tuple[int, Tensor]]:
    """First class and weights of every chunk."""
    for number, chunk in enumerate(weight.split(length, dim)):
        yield number * length, chunk
