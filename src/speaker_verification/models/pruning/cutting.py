"""Removal of units from an encoder, which becomes physically smaller."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.units import UnitGroup, UnitRows
from speaker_verification.models.pruning.kept_units import KEPT_UNITS, KeptUnits, Units

if TYPE_CHECKING:
    from speaker_verification.models.speaker_model import SpeakerModel


def cut(model: SpeakerModel, kept: KeptUnits) -> None:
    """Remove all units of a model's encoder but the kept ones, in place.

    Norms, biases of outputs and all else that does not belong to a unit stay, so that a module without units
    gives a constant. The encoder's configuration records what is left of its original units; a saved model or
    encoder is loaded with it.

    Args:
        model: speaker model, changed in place: its parameters are new ones, unknown to an earlier optimiser.
        kept: units to keep, numbered as they are in the model.

    Raises:
        DataError: the kept units are not of such an encoder.
        ParameterError: the encoder cannot be pruned.
    """
    adapter = model.frontend.adapter
    config, modules = adapter.encoder.config, kept.modules()
    keep_units(adapter, kept)
    before = getattr(config, KEPT_UNITS, None)
    if before is not None:
        kept = KeptUnits.from_modules(
            (block, kind, tuple(original[unit] for unit in units))
            for (block, kind, units), (*_, original) in zip(
                modules, KeptUnits.from_config(before).modules(), strict=True
            )
        )
    config.update({KEPT_UNITS: kept.to_config()})


def keep_units(adapter: EncoderAdapter, kept: KeptUnits) -> None:
    """Remove all units of an encoder but the kept ones; its configuration stays as it is.

    Args:
        adapter: adapter of the encoder, which is changed in place.
        kept: units to keep, numbered as they are in the encoder.

    Raises:
        DataError: the kept units are not of such an encoder.
        ParameterError: the encoder cannot be pruned.
    """
    groups = adapter.unit_groups()
    _refuse_other_modules(groups, kept)
    for group, (*_, units) in zip(groups, kept.modules(), strict=True):
        for rows in group.rows:
            _keep_rows(rows, units)
        for layer in {rows.module for rows in group.rows}:
            _match_sizes(layer)
        adapter.keep_units(group, units)


def sparsity_of(model: SpeakerModel) -> float:
    """Share of the original parameters of a model's encoder that cuts have removed."""
    adapter = model.frontend.adapter
    left = adapter.encoder.num_parameters()
    gone = sum(
        (group.original_units - group.num_units) * group.parameters_a_unit for group in adapter.unit_groups()
    )
    return gone / (gone + left)


def _refuse_other_modules(groups: list[UnitGroup], kept: KeptUnits) -> None:
    modules = kept.modules()
    wanted, found = ([(one.block, one.kind) for one in groups], [module[:2] for module in modules])
    if wanted != found:
        asked, given = Counter(kind for _, kind in wanted), Counter(kind for _, kind in found)
        raise DataError(f"kept units are of {dict(given)} modules, the encoder has {dict(asked)}")
    for group, (block, kind, units) in zip(groups, modules, strict=True):
        if units and units[-1] >= group.num_units:
            raise DataError(
                f"kept units of block {block} have {kind} {units[-1]}, of {group.num_units} from 0"
            )


def _keep_rows(rows: UnitRows, units: Units) -> None:
    """Replace a parameter by its rows of the units."""
    parameter = rows.parameter
    index = torch.tensor(units, dtype=torch.long, device=parameter.device)
    by_unit = parameter.detach().unflatten(rows.dim, (rows.copies, rows.num_units, rows.width))
    left: Tensor = by_unit.index_select(rows.dim + 1, index).flatten(rows.dim, rows.dim + 2)
    setattr(rows.module, rows.name, Parameter(left.contiguous(), requires_grad=parameter.requires_grad))


def _match_sizes(layer: nn.Module) -> None:
    """Set the sizes that a layer holds beside its parameters to theirs."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Conv1d):
        layer.out_channels = layer.weight.shape[0]
        layer.groups = layer.out_channels if layer.groups > 1 else 1
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
