"""Initial weights of the layers that are not pre-trained."""

from __future__ import annotations

from torch import nn


def xavier_initialise(module: nn.Module) -> None:
    """Xavier uniform for every weight of two or more dimensions, zero for every bias, as published with LAP.

    On three-dimensional weights torch counts fans over the trailing dimensions. That is kept: it sets the
    effective step size.
    """
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
