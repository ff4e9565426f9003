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

    def clip(self, max_norm: float, *parts: Sequence[Parameter]) -> Tensor:
        """Scale the averaged gradients of each part to a norm of `max_norm` at most.

        Args:
            max_norm: largest norm of the gradients of a part.
            *parts: parameters, each of them in one part.

        Returns:
            Norm of the gradients of all parts before, a scalar.
        """
        norms = [self._norm(part) for part in parts]
        for part, norm in zip(parts, norms, strict=True):
            clip_grads_with_norm_(part, max_norm, norm)
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def _norm(self, parameters: Sequence[Parameter]) -> Tensor:
        """Norm of the averaged gradients of parameters, the sharded ones with all their parts."""
        sharded = {id(parameter) for parameter in self._sharded}
        own = [parameter for parameter in parameters if id(parameter) in sharded]
        norm = get_total_norm(_gradients(p for p in parameters if id(p) not in sharded))
        if not own:
            return norm
        squared = get_total_norm(_gradients(own)).square()
        return (norm.square() + processes().sum(squared)).sqrt()


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
