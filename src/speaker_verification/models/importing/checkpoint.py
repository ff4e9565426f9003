"""Public checkpoint, read from its file: weights by their public names, and what to build for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig

from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.configuration import read_configuration
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.settings import ModelSettings


@dataclass(frozen=True)
class PublicCheckpoint:
    """Weights by their public names, without the margin head's centres (K, E, C)."""

    origin: Path
    weights: dict[str, Tensor]
    centres: Tensor | None
    encoder: Callable[[], PreTrainedConfig]
    settings: ModelSettings
    head: AamSoftmaxSettings
    public_name: Callable[[str], str]
    """Public name of a weight, by its name in the speaker model."""


def given_configuration(encoder: str | Path) -> PreTrainedConfig:
    """Configuration of the encoder, by hub name or folder.

    Raises:
        DataError: it cannot be read, or is of an encoder that the model does not serve.
    """
    try:
        return read_configuration(encoder)
    except DataError as error:
        raise DataError(
            f"{error} (another configuration of the encoder: pass encoder=, a folder with its config.json)"
        ) from error


def inferred_configuration(
    infer: Callable[[Mapping[str, Tensor]], PreTrainedConfig],
    kind: str,
    weights: Mapping[str, Tensor],
    prefix: str,
    origin: Path,
) -> PreTrainedConfig:
    """Configuration of the encoder from the shapes of its weights.

    Args:
        infer: function of the encoder's weights, by their names below the prefix.
        kind: name of the encoder in messages.
        weights: weights of the whole model.
        prefix: start of the names of the encoder's weights.
        origin: path for messages.

    Raises:
        DataError: weights are missing, or their shapes are of no such encoder.
    """
    try:
        return infer(below(prefix, weights))
    except KeyError as error:
        raise DataError(f"'{origin}' has no complete {kind}: missing {prefix}{error.args[0]}") from error
    except (IndexError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        raise DataError(
            f"'{origin}' has no {kind}: the shapes of its weights do not fit one ({error}); pass encoder="
        ) from error


def below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def single_centres(rows: Tensor | None) -> Tensor | None:
    """Centres (1, E, C) of a head with one for each class, from its rows (C, E); None of None."""
    return None if rows is None else rows.transpose(0, -1).unsqueeze(0)


def num_rows(name: str, weights: Mapping[str, Tensor], origin: Path) -> int:
    """Size of a weight's first dimension.

    Raises:
        DataError: there is no such weight.
    """
    if name not in weights or not weights[name].dim():
        raise DataError(f"'{origin}' is not complete: missing {name}")
    return len(weights[name])


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
