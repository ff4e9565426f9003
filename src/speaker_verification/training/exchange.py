"""Gradients of a step, averaged over several processes and clipped by their common norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from speaker_verification.common.distributed import processes

BUCKET_BYTES = 2**25  # fewer, larger messages: each has a cost of its own


class GradientExchange:
    """Mean of the gradients over the processes, once a step, in flat buckets.

    A parameter without a gradient (its block was dropped) counts as zero where any process has one, and stays
    without where none has.

    Args:
        parameters: trained parameters, in the same order in all processes.
        sharded: those of which every process holds another part, with gradients summed over all examples.
    """

    def __init__(self, parameters: Sequence[Parameter], sharded: Sequence[Parameter] = ()) -> None:
        own = {id(parameter) for parameter in sharded}
        self._parameters = [parameter for parameter in parameters if id(parameter) not in own]
        self._sharded = sharded

    @property
    def megabytes(self) -> float:
        """Size of all exchanged gradients in MB."""
        return sum(_num_bytes(parameter) for parameter in self._parameters) / 1e6

    def average(self) -> None:
        """Replace the gradients by their mean over the processes."""
        group = processes()
        if not group.joined:
            return
        # Kept on the CPU, where gloo sums it, so that no device is waited for.
        held = torch.tensor([parameter.grad is not None for parameter in self._parameters], dtype=torch.int32)
        anywhere = group.sum(held).tolist()
        with_gradient = (p for p, count in zip(self._parameters, anywhere, strict=True) if count)
        for bucket in _buckets(with_gradient):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            # A gradient that is a bucket by itself, such as the head's, is averaged in place.
            flat = [gradient.flatten() for gradient in gradients]
            averaged = group.mean(flat[0] if len(flat) == 1 else torch.cat(flat))
            for parameter, part in zip(bucket, averaged.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)
        for parameter in self._sharded:
            if parameter.grad is not None:
                parameter.grad /= group.size

    def clip(self, max_norm: float) -> Tensor:
        """Norm of the averaged gradients of all parameters, which are then scaled to `max_norm` at most."""
        norm = get_total_norm(_gradients(self._parameters))
        if self._sharded:
            squared = get_total_norm(_gradients(self._sharded)).square()
            norm = (norm.square() + processes().sum(squared)).sqrt()
        clip_grads_with_norm_([*self._parameters, *self._sharded], max_norm, norm)
        return norm


def _gradients(parameters: Iterable[Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _num_bytes(parameter: Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _buckets(parameters: Iterable[Parameter]) -> Iterator[list[Parameter]]:
    """Parameters of one type that follow each other, up to BUCKET_BYTES."""
    bucket: list[Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + _num_bytes(parameter) > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += _num_bytes(parameter)
    if bucket:
        yield bucket
