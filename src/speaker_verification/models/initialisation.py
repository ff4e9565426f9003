"""Initial weights of the layers that are not pre-trained, and their omission where weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


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


class Uninitialised(TorchFunctionMode):
    """Modules that are built within the block, in this thread, hold arbitrary weights: others are loaded.

    To draw the weights of a large encoder takes longer than to read them.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


_DRAWING = ("normal_", "uniform_", "kaiming_uniform_")  # of tensors, of torch.nn.init and of transformers
