"""Hard-concrete gates on the units of an encoder, which learn what can be removed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.units import UnitGroup
from speaker_verification.models.pruning.kept_units import KeptUnits
from speaker_verification.models.pruning.settings import GateSettings

INITIAL_DEVIATION = 0.01  # of log alpha
EDGE = 1e-6  # uniform samples keep this distance from 0 and 1
WIDEST_SHIFT = 20.0  # beyond the largest log alpha, where gates are closed or open beyond doubt
BISECTIONS = 40  # halvings of the widest shift, down to the precision of log alpha
NORM_FLOOR = 1e-6  # least sum of the gates of a norm


class PruningGates(nn.Module):
    """A gate between 0 and 1 for every unit of an encoder, multiplied with the unit's output.

    The gates act through hooks on the encoder, whose own weights and state they leave alone; until the first
    `draw` or `close_least` all are open. A LayerNorm over units takes its moments weighted by their gates, so
    that closed units count no more there than removed ones.

    Args:
        adapter: adapter of the encoder.
        settings: distribution of the gates, and the units that have them.

    Raises:
        ParameterError: the encoder cannot be pruned.

    Source: C. Louizos et al., Learning Sparse Neural Networks through L0 Regularization, ICLR 2018; Y. Peng
    et al., DPHuBERT: Joint Distillation and Pruning of Self-Supervised Speech Models, Interspeech 2023.
    """

    def __init__(self, adapter: EncoderAdapter, settings: GateSettings) -> None:
        super().__init__()
        self.settings = settings
        self.groups = adapter.unit_groups()
        self._gated = [group for group in self.groups if group.kind in settings.units and group.num_units]
        self._sizes = [group.num_units for group in self._gated]
        total = adapter.encoder.num_parameters()
        means, shares = [], []
        for group, size in zip(self._gated, self._sizes, strict=True):
            drop = getattr(settings.initial_drop, group.kind)
            means.append(torch.full((size,), math.log(1 - drop) - math.log(drop)))
            shares.append(torch.full((size,), group.parameters_a_unit / total))
        device = adapter.encoder.device
        self.log_alpha = nn.Parameter(torch.normal(torch.cat(means), INITIAL_DEVIATION).to(device))
        self.shares = nn.Buffer(torch.cat(shares).to(device), persistent=False)
        self.values: tuple[Tensor, ...] | None = None  # of the gates, by group; None: all are open
        self._hooks = [hook for index, group in enumerate(self._gated) for hook in self._attach(index, group)]

    def draw(self) -> None:
        """Draw all gates anew, for the forward passes up to the next call."""
        low, high = self.settings.stretch
        uniform = torch.empty_like(self.log_alpha).uniform_(EDGE, 1 - EDGE)
        samples = ((uniform.logit() + self.log_alpha) / self.settings.temperature).sigmoid()
        self.values = (samples * (high - low) + low).clamp(0, 1).split(self._sizes)

    @torch.no_grad()
    def close_least(self) -> None:
        """Set all gates to 0 or 1, as `kept_units` removes and keeps units."""
        self.values = tuple(self._kept_masks())

    def expected_sparsity(self) -> Tensor:
        """Expected share of the encoder's parameters that is removed: a scalar with a gradient."""
        return (1 - self._open_probabilities()) @ self.shares

    def kept_units(self, sparsity: float | None = None) -> KeptUnits:
        """Units that stay: of each module those with the least gates go, as many as are expected to.

        Args:
            sparsity: sparsity that is met as nearly as whole units allow, at most that of all units: as many
                go as gates would expect whose log alphas were shifted alike. None shifts nothing.
        """
        masks = iter(self._kept_masks(0.0 if sparsity is None else self._shift_to(sparsity)))
        return KeptUnits.from_modules(
            (
                group.block,
                group.kind,
                tuple(next(masks).nonzero().flatten().tolist())
                if group in self._gated
                else tuple(range(group.num_units)),
            )
            for group in self.groups
        )

    def detach(self) -> None:
        """Remove the hooks: the encoder computes as if there had been no gates."""
        for hook in self._hooks:
            hook.remove()

    def _open_probabilities(self, shift: float = 0.0) -> Tensor:
        """Probability of every gate not to be 0, its log alpha shifted."""
        low, high = self.settings.stretch
        return (self.log_alpha + shift - self.settings.temperature * math.log(-low / high)).sigmoid()

    def _shift_to(self, sparsity: float) -> float:
        """Shift of all log alphas with which the units that go come nearest to a sparsity, by bisection."""
        reach = float(self.log_alpha.detach().abs().max()) + WIDEST_SHIFT
        few, many = reach, -reach  # shifts that remove too few and too many
        for _ in range(BISECTIONS):
            shift = (few + many) / 2
            few, many = (few, shift) if self._removed_share(shift) > sparsity else (shift, many)
        return min(few, many, key=lambda shift: abs(self._removed_share(shift) - sparsity))

    def _removed_share(self, shift: float) -> float:
        """Share of the encoder's parameters that goes with the units which a shift removes."""
        shares = (of_units[0].item() for of_units in self.shares.split(self._sizes))
        return sum(share * gone for share, gone in zip(shares, self._numbers_removed(shift), strict=True))

    @torch.no_grad()
    def _numbers_removed(self, shift: float) -> list[int]:
        """For every group the number of units that go, as many as are expected to be closed."""
        closed = (1 - self._open_probabilities(shift)).split(self._sizes)
        return [round(expected.sum().item()) for expected in closed]

    @torch.no_grad()
    def _kept_masks(self, shift: float = 0.0) -> list[Tensor]:
        """For every group a vector of 1 for units that stay and 0 for others."""
        masks = []
        groups = self.log_alpha.split(self._sizes)
        for log_alpha, gone in zip(groups, self._numbers_removed(shift), strict=True):
            mask = torch.ones_like(log_alpha)
            mask[log_alpha.argsort(stable=True)[:gone]] = 0
            masks.append(mask)
        return masks

    def _attach(self, index: int, group: UnitGroup) -> list[Any]:
        """Hooks that multiply the units of a group with their gates."""

        def gate_units(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self.values is None:
                return None
            (x,) = inputs
            gates = self.values[index].to(x.dtype)
            if isinstance(group.output, nn.Conv1d):
                return (x * gates[:, None],)  # (B, units, T)
            return (x * gates.repeat_interleave(x.shape[-1] // len(gates)),)  # (B, T, units * width)

        def weigh_moments(norm: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self.values is None else weighted_norm(norm, inputs[0], self.values[index])

        hooks: list[Any] = [group.output.register_forward_pre_hook(gate_units)]
        if group.norm is not None:
            hooks.append(group.norm.register_forward_hook(weigh_moments))
        return hooks


def weighted_norm(norm: nn.LayerNorm, x: Tensor, weights: Tensor) -> Tensor:
    """LayerNorm over the last dimension with moments in which every channel has a weight.

    With weights of 0 and 1 it is, in the channels of weight 1, the norm of these alone.

    Args:
        norm: norm whose parameters and floor are used.
        x: (..., C).
        weights: (C,), 0 or more.
    """
    x = x.to(norm.weight.dtype)
    weights = weights.to(x.dtype)
    weights = weights / weights.sum().clamp(min=NORM_FLOOR)
    centred = x - (x * weights).sum(dim=-1, keepdim=True)
    variance = (centred.square() * weights).sum(dim=-1, keepdim=True)
    return centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
