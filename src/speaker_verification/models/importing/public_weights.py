"""Weights of public code: read without running code, loaded strictly under other names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speaker_verification.common.errors import DataError
from speaker_verification.models.weight_files import read_torch_file, refuse_non_finite

Rules = Sequence[tuple[str, str]]

ENCODER = "frontend.encoder."  # start of the names of the encoder's weights in a speaker model

# Names of one weight in files of several ages: weight norm of older torch, layer norm between transpositions.
_VARIANTS: Rules = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"(feature_extractor\.conv_layers\.\d+\.2)\.1\.", r"\1."),
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Weights by name that torch.save wrote, unpickled without running code of the file.

    Raises:
        DataError: the file cannot be read so, or has anything but tensors.
    """
    return only_tensors(read_torch_file(path), path)


def only_tensors(content: Any, origin: Path) -> dict[str, Tensor]:
    """Content of a file as weights by name.

    Raises:
        DataError: the content is no dictionary, or has anything but tensors.
    """
    if not isinstance(content, dict):
        raise DataError(f"'{origin}' has no dictionary of weights but {type(content).__name__}")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise DataError(
            f"'{origin}' is no state dict: {others[0]} is no tensor but {type(content[others[0]]).__name__}"
        )
    return content


def rename(name: str, rules: Rules) -> str:
    """Name after all substitutions of regular expressions, in their order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def numbered(weights: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Names that match a pattern, sorted by the number in them."""
    matches = [match for name in weights if (match := re.fullmatch(pattern, name))]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def one_naming(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under unified names, which differ between files of several ages."""
    return {rename(name, _VARIANTS): tensor for name, tensor in weights.items()}


def load_renamed(
    module: nn.Module, weights: Mapping[str, Tensor], public_name: Callable[[str], str], origin: Path
) -> None:
    """Load weights of public code, which must be exactly those of the module.

    Args:
        module: module, loaded in place.
        weights: weights by their public names; a convolution over one frame may stand for a linear layer.
        public_name: function from the module's own name of a weight to the public one.
        origin: path for messages.

    Raises:
        DataError: weights are missing, unexpected or of another shape; all are listed by their public names.
    """
    found = one_naming(weights)
    own = module.state_dict()
    names = {name: public_name(name) for name in own}
    missing = sorted(set(names.values()) - found.keys())
    unexpected = sorted(found.keys() - set(names.values()))
    if missing or unexpected:
        raise DataError(f"'{origin}' does not fit the model: missing {missing}, unexpected {unexpected}")
    renamed = {name: _without_kernel(found[names[name]], tensor.dim()) for name, tensor in own.items()}
    misshapen = [
        f"{names[name]} {tuple(renamed[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if renamed[name].shape != tensor.shape
    ]
    if misshapen:
        raise DataError(f"'{origin}' does not fit the model: of another shape {misshapen}")
    refuse_non_finite(found, origin)
    module.load_state_dict(renamed)


def _without_kernel(tensor: Tensor, dimensions: int) -> Tensor:
    while tensor.dim() > dimensions and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor
