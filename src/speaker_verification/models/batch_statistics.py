"""Batch normalisation by the statistics of a whole batch, of which each of several processes has a share.

torch's SyncBatchNorm does the same on GPUs, and refuses CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from speaker_verification.common.distributed import processes


def share_batch_statistics(module: nn.Module) -> None:
    """Replace every batch normalisation within a module by a `SharedBatchNorm`, parameters and names kept."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SharedBatchNorm(child))
        else:
            share_batch_statistics(child)


def whole_batch_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of the whole batch, from those (C,) of this process's share.

    Source: T. Chan et al., Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979,
    for shares of one size.
    """
    if not processes().joined:
        return mean, variance
    means, variances = processes().stack(torch.stack([mean, variance])).unbind(dim=1)  # (N, C) each
    mean = means.mean(dim=0)
    return mean, (variances + (means - mean).square()).mean(dim=0)


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics in training are those of all processes' shares together.

    Args:
        norm: plain normalisation, whose parameters and buffers it takes over.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape (B, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if not self.training:
            return super().forward(input)
        over = [0, *range(2, input.dim())]
        with torch.no_grad():
            precise = input.to(torch.promote_types(input.dtype, torch.float32))
            variance, mean = torch.var_mean(precise, dim=over, correction=0)
            mean, variance = whole_batch_moments(mean, variance)
            count = input.numel() // input.shape[1] * processes().size
            if self.running_mean is not None and self.running_var is not None:
                track_moments(self, mean, variance, count)
        x = _WithStatistics.apply(input, mean, (variance + self.eps).rsqrt(), count)
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


def track_moments(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Follow a batch with the running statistics.

    Args:
        norm: changed in place.
        mean: mean of the batch, (C,).
        variance: biased variance of the batch, (C,).
        count: number of vectors behind them.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    newest = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, newest)
    norm.running_var.lerp_(variance * count / (count - 1), newest)


class _WithStatistics(torch.autograd.Function):
    """The input, whose gradient also gets what reaches it through the mean and the variance of the batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse_deviation: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(x, mean, inverse_deviation)
        ctx.count = count
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *moments = ctx.saved_tensors
        over, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
        mean, inverse_deviation = (moment.view(shape) for moment in moments)
        standard = (x - mean) * inverse_deviation
        gradient = gradient.to(standard.dtype)
        parts = torch.stack([gradient.sum(dim=over), (gradient * standard).sum(dim=over)])  # (2, C)
        along_mean, along_deviation = (part.view(shape) for part in processes().sum(parts) / ctx.count)
        return (gradient - along_mean - standard * along_deviation).to(x.dtype), None, None, None
