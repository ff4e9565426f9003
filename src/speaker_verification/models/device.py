"""Which device to compute on."""

from __future__ import annotations

import torch

from speaker_verification.errors import ParameterError


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` takes a GPU if there is one.

    Raises:
        ParameterError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"parameter 'device' is '{name}': {reason}; use auto, cpu or cuda:N") from error
    return device
