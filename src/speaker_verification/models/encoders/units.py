"""Prunable units of an encoder's blocks: heads, feed-forward units and convolution channels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from speaker_verification.models.pruning.kept_units import UnitKind


@dataclass(frozen=True)
class UnitRows:
    """Rows of one parameter that belong to the units of a group.

    Unit u has the rows u * width to (u + 1) * width - 1, and the same rows of every further copy.
    """

    module: nn.Module
    name: str
    """Name of the parameter in the module."""
    dim: int = 0
    """Dimension whose entries are the rows."""
    width: int = 1
    """Rows of one unit in each copy."""
    copies: int = 1
    """Times that all units come one after the other: two in a gated linear unit."""

    @property
    def parameter(self) -> Tensor:
        return getattr(self.module, self.name)

    @property
    def num_units(self) -> int:
        return self.parameter.shape[self.dim] // (self.width * self.copies)

    @property
    def elements_a_unit(self) -> int:
        """Number of elements of the parameter that one unit has."""
        others = (size for dim, size in enumerate(self.parameter.shape) if dim != self.dim)
        return self.width * self.copies * math.prod(others)


@dataclass(frozen=True)
class UnitGroup:
    """Units of one module of a block, each of which can be removed alone."""

    block: int
    """Number of the block."""
    kind: UnitKind
    owner: nn.Module
    """Attention, feed-forward network or convolution module."""
    original_units: int
    """Number of units before any was removed."""
    rows: tuple[UnitRows, ...]
    """All parameters that become smaller with every unit that goes."""
    output: nn.Module
    """Layer whose input channels are the units; nothing else reads them."""
    norm: nn.LayerNorm | None = None
    """LayerNorm over the units of a frame."""

    @property
    def num_units(self) -> int:
        """Number of units that are there."""
        return self.rows[0].num_units

    @property
    def parameters_a_unit(self) -> int:
        """Number of parameters that go with a unit."""
        return sum(rows.elements_a_unit for rows in self.rows)


def rows_of_layer(layer: nn.Module, width: int = 1, copies: int = 1) -> tuple[UnitRows, ...]:
    """Rows of a layer that computes units: of its weight, and of its bias where it has one."""
    names = [name for name in ("weight", "bias") if getattr(layer, name) is not None]
    return tuple(UnitRows(layer, name, width=width, copies=copies) for name in names)


def head_units(
    block: int,
    attention: nn.Module,
    original_heads: int,
    projections: Iterable[nn.Module],
    output: nn.Linear,
    width: int,
    others: Iterable[UnitRows] = (),
) -> UnitGroup:
    """Heads of an attention.

    Args:
        block: number of the block.
        attention: the attention.
        original_heads: number of heads before any was removed.
        projections: layers that compute what the heads attend with, d channels a head.
        output: layer behind the heads.
        width: d, channels of a head.
        others: further parameters of the heads.
    """
    rows = [rows for layer in projections for rows in rows_of_layer(layer, width)]
    rows += [UnitRows(output, "weight", dim=1, width=width), *others]
    return UnitGroup(block, "attention_heads", attention, original_heads, tuple(rows), output)


def network_units(block: int, network: Any, original_units: int) -> UnitGroup:
    """Inner units of a feed-forward network of transformers.

    Args:
        block: number of the block.
        network: the network, with `intermediate_dense` and `output_dense`.
        original_units: number of units before any was removed.
    """
    output = network.output_dense
    rows = (*rows_of_layer(network.intermediate_dense), UnitRows(output, "weight", dim=1))
    return UnitGroup(block, "feed_forward", network, original_units, rows, output)
