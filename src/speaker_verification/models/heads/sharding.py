"""Heads of very many classes: in chunks of classes, and with a shard of the classes on each process."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import ParameterError
from speaker_verification.models.heads.base import Head, Margins
from speaker_verification.models.heads.chunks import ClassSummary, summarise_chunks


class ClassShard:
    """This process's share of the classes; the shares differ by one class at most.

    Args:
        num_classes: C.
        dim: dimension of the classes in the tensors that are shared out.

    Raises:
        ParameterError: there are fewer classes than processes.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        size, rank = processes().size, processes().rank
        if num_classes < size:
            raise ParameterError(
                f"parameter 'head.sharded' is true, and {size} processes cannot share {num_classes} classes"
            )
        bounds = [number * num_classes // size for number in range(size + 1)]
        self._dim = dim
        self._sizes = [end - start for start, end in pairwise(bounds)]
        self.start, self.end = bounds[rank], bounds[rank + 1]

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a tensor over all classes, as a tensor of its own, in one piece."""
        own = whole.narrow(self._dim, self.start, self.end - self.start)
        return own.clone(memory_format=torch.contiguous_format)

    def whole(self, part: Tensor) -> Tensor:
        """The tensor over all classes, in main memory, of which every process has its part."""
        missing = max(self._sizes) - part.shape[self._dim]
        padding = [0, 0] * (part.dim() - 1 - self._dim) + [0, missing]
        parts = processes().stack(functional.pad(part.detach().cpu(), padding))
        return torch.cat(
            [one.narrow(self._dim, 0, size) for one, size in zip(parts, self._sizes, strict=True)], self._dim
        )


class ShardableHead(Head):
    """Head whose loss follows from a summary of the classes, which is merged from summaries of parts of them.

    The parts are chunks, which are computed one after the other, and shards, of which each process computes
    its own for the examples of all. What `state_dict` gives and takes is the whole head in every case; all
    processes call it together.

    Args:
        embedding_size: E.
        num_classes: C.
    """

    class_dim: ClassVar[int]
    weight: nn.Parameter

    def __init__(self, embedding_size: int, num_classes: int) -> None:
        super().__init__(embedding_size, num_classes)
        self._classes_per_chunk = num_classes

    def distribute(self, sharded: bool, classes_per_chunk: int) -> None:
        self._classes_per_chunk = classes_per_chunk
        if sharded and processes().size > 1:
            self.shard = ClassShard(self.num_classes, self.class_dim)
            self.weight = nn.Parameter(self.shard.part(self.weight.detach()))

    @property
    def sharded_parameters(self) -> list[nn.Parameter]:
        return [self.weight] if self.shard else []

    @property
    def is_in_one_part(self) -> bool:
        """Whether this process computes all classes at once."""
        return not self.shard and self.num_classes <= self._classes_per_chunk

    def summary(
        self, embeddings: Tensor, labels: Tensor, margins: Margins, *parameters: Tensor
    ) -> ClassSummary:
        """Summary (V, B), (B,) of all classes.

        Args:
            embeddings: (B, E) of this process.
            labels: classes, (B,).
            margins: margins of this step.
            *parameters: parameters of `summarise` beside the weights of the classes.
        """
        group, start, own = processes(), 0, slice(None)
        if self.shard:
            own = slice(group.rank * len(labels), (group.rank + 1) * len(labels))
            embeddings, labels = _Gathered.apply(embeddings).flatten(0, 1), group.stack(labels).flatten()
            start = self.shard.start

        def of_chunk(weight: Tensor, first: int, *shared: Tensor) -> ClassSummary:
            first += start
            values, classes = self.summarise(weight, labels - first, margins, *shared)
            return ClassSummary(values, classes + first)

        dim, length = self.class_dim, self._classes_per_chunk
        parts = summarise_chunks(of_chunk, self.weight, dim, length, embeddings, *parameters)
        values, classes = self._merged(parts)
        if self.shard:
            shards = ClassSummary(_Gathered.apply(values), group.stack(classes))
            values, classes = self._merged(shards)
        return ClassSummary(values[:, own], classes[own])

    @abstractmethod
    def summarise(
        self, weight: Tensor, labels: Tensor, margins: Margins, embeddings: Tensor, *parameters: Tensor
    ) -> ClassSummary:
        """Summary (V, B), (B,) of some classes that follow each other.

        Args:
            weight: their weights.
            labels: (B,) counted from the first of them; others are those of targets elsewhere.
            margins: margins of this step.
            embeddings: (B, E).
            *parameters: as given to `summary`.
        """

    @abstractmethod
    def merge(self, parts: ClassSummary) -> ClassSummary:
        """Summary (V, B), (B,) of all classes of P parts, (P, V, B) and (P, B)."""

    def _merged(self, parts: ClassSummary) -> ClassSummary:
        if len(parts.values) > 1:
            return self.merge(parts)
        return ClassSummary(parts.values[0], parts.classes[0])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shard:
            destination[f"{prefix}weight"] = self.shard.whole(self.weight)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.shard:
            name = f"{prefix}weight"
            state_dict = {**state_dict, name: self.shard.part(state_dict[name])}
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Gathered(torch.autograd.Function):
    """The processes' tensors, (N, ...); their gradients are summed over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return processes().stack(tensor.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return processes().sum(gradient.clone(memory_format=torch.contiguous_format))[processes().rank]
