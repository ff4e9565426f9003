"""Compute device by name."""

from __future__ import annotations

import torch

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import ParameterError


def check_device(name: str) -> None:
    """Check that a named device exists, without allocating memory on it.

    Raises:
        ParameterError: no GPU, or no GPU of this number.
    """
    kind, _, number = name.partition(":")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= num_gpus:
        here = f"cuda:0 to cuda:{num_gpus - 1}" if num_gpus > 1 else "cuda:0 alone" if num_gpus else "no GPU"
        raise ParameterError(
            f"parameter 'device' is '{name}', but this machine has {here}; use auto, cpu or cuda:N"
        )


def resolve_device(name: str) -> torch.device:
    """Device of a name; `auto` is the GPU if there is one. Of several processes each has a GPU of its own.

    Raises:
        ParameterError: no such device on this machine, or fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    if processes().joined and name != "cpu":
        name = _own_gpu(name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"parameter 'device' is '{name}': {reason}; use auto, cpu or cuda:N") from error
    return device


def _own_gpu(name: str) -> str:
    group, num_gpus = processes(), torch.cuda.device_count()
    if group.local_size > (num_gpus if name == "cuda" else 1):
        raise ParameterError(
            f"parameter 'device' is '{name}', but {group.local_size} processes on this host need a GPU each "
            f"and it has {num_gpus}: use auto and at most {num_gpus} processes, or cpu"
        )
    own = f"cuda:{group.local_rank}" if name == "cuda" else name
    torch.cuda.set_device(own)
    return own
