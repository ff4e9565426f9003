"""Readers of weights and JSON files, with one-line errors for files of another kind."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaker_verification.common.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ZIP = b"PK\x03\x04"
HEADER_LENGTH = 8  # bytes at the start of a safetensors file with the length of its header


def read_json(path: Path) -> dict[str, Any]:
    """JSON object of a file.

    Raises:
        DataError: the file is missing or has no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, "JSON", error) from error
    if not isinstance(content, dict):
        raise DataError(f"'{path}' holds no JSON object but {type(content).__name__}")
    return content


def read_safetensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Weights by name of a safetensors file.

    Raises:
        DataError: the file is missing, truncated or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "weights", error) from error


def read_torch_file(path: Path) -> dict[str, Any]:
    """Dictionary that torch.save wrote, unpickled without running code of the file.

    Raises:
        DataError: the file cannot be read so, or has no dictionary.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise unreadable(path, "a file of weights", error) from error
    if not isinstance(content, dict):
        raise DataError(f"'{path}' has no dictionary of weights but {type(content).__name__}")
    return content


def refuse_unreadable(path: Path) -> None:
    """Refuse a file of JSON or weights, by its ending, that cannot be read.

    Raises:
        DataError: the file cannot be read.
    """
    readers: dict[str, Callable[[Path], Any]] = {".json": read_json, ".safetensors": read_safetensors}
    readers.get(path.suffix, read_torch_file)(path)


def refuse_non_finite(weights: Mapping[str, Tensor], origin: str | Path) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        DataError: the message names the first weight that is not finite.
    """
    import torch

    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        extremes = torch.stack(torch.aminmax(tensor))  # a tenth of the time of isfinite over all
        if not extremes.isfinite().all():
            raise DataError(f"'{origin}' has {name} that is not finite: copy or train it again")


def with_optional(
    module: nn.Module, weights: Mapping[str, Tensor], names: Collection[str]
) -> dict[str, Tensor]:
    """Weights with those of some names exactly where a module has them.

    Args:
        module: module that is to take the weights.
        weights: weights by name.
        names: optional weights, left out where the module lacks them, and drawn evenly from 0 to 1 where
            `weights` lack them.
    """
    own = module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own or name not in names}
    lacking = (name for name in sorted(names) if name in own and name not in fitting)
    return fitting | {name: own[name].clone().uniform_() for name in lacking}


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Load weights whose names and shapes must be those of the module.

    Raises:
        DataError: weights are missing, unexpected, of another shape or not finite; the first of each are
            listed.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if missing or unexpected or misshapen:
        raise DataError(
            f"'{origin}' does not fit the model: missing {missing[:5]}, unexpected {unexpected[:5]}, "
            f"of another shape {misshapen[:5]}"
        )
    refuse_non_finite(weights, origin)
    module.load_state_dict(weights)


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """Error for a file that could not be read, with reason and remedy.

    Args:
        path: path of the file.
        kind: expected content.
        error: exception of the attempt, the reason where nothing simpler is known.
    """
    if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to trust the file
        said = "it is no file that torch.save wrote, or it would run code"
    else:
        said = reason(error)
    return DataError(f"'{path}' cannot be read as {kind}: {file_fault(path) or said}")


def reason(error: Exception) -> str:
    """First line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def file_fault(path: Path) -> str | None:
    """Reason why a file is neither weights nor JSON, with a remedy; None where it looks like one."""
    if path.is_dir():
        return "it is a folder"
    if not path.is_file():
        return "no such file"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        return "it is empty: copy or download it again"
    if start.startswith(LFS_POINTER):
        return "it is a Git LFS pointer in place of the file: run git lfs pull where it was cloned"
    if start.lstrip().startswith(b"<"):
        return "it is a web page or XML: download the file itself"
    if path.suffix == ".safetensors":
        return _safetensors_fault(path, size)
    if start.startswith(ZIP) and not zipfile.is_zipfile(path):
        return f"it is cut short after {size} bytes: copy or download it again"
    return None


def _safetensors_fault(path: Path, size: int) -> str | None:
    """Fault in the header of a safetensors file, or in the number of bytes behind it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        if file.read(1) != b"{":
            return "it is no safetensors file"
        if HEADER_LENGTH + length > size:
            return f"it is cut short after {size} bytes: copy or download it again"
        file.seek(HEADER_LENGTH)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError):
            return "it is no safetensors file"
    whole = HEADER_LENGTH + length + max(ends, default=0)
    if size < whole:
        return f"it is cut short after {size} of {whole} bytes: copy or download it again"
    return None
