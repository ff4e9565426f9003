"""Configurations of encoders: read, built, and refused where the model cannot serve them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.models.encoders import AdapterChoice, adapter_class
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.pruning.cutting import keep_units
from speaker_verification.models.pruning.kept_units import KEPT_UNITS, KeptUnits
from speaker_verification.models.settings import CONFIG_FILE
from speaker_verification.models.weight_files import read_json, reason


def configuration_of(
    values: Mapping[str, Any],
    where: str,
    kind: type[UserError] = DataError,
    closed: bool = False,
    adapter: AdapterChoice = None,
) -> PreTrainedConfig:
    """Configuration of an encoder from plain values.

    Args:
        values: options of the encoder, `model_type` among them.
        where: prefix of an option's name in messages.
        kind: class of the error to raise.
        closed: refusal of options that the encoder does not have.
        adapter: see `adapter_class`.

    Raises:
        UserError: of the kind, if the values are no configuration that the model serves.
    """
    options = dict(values)
    model_type = options.pop("model_type", None)
    family = _adapter_class(model_type, adapter, where, kind)
    try:
        config = AutoConfig.for_model(model_type, **options)
    except Exception as error:  # transformers raises nearly anything
        raise kind(f"{where}{_explain(error)}") from error
    known = AutoConfig.for_model(model_type).to_dict().keys() | family.undeclared_options
    unknown = sorted(options.keys() - known) if closed else []
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise kind(f"{where}{unknown[0]} is no option of {model_type}{hint}")
    refuse_unservable(config, where, kind, family)
    return config


def read_configuration(
    checkpoint: str | Path, adapter: AdapterChoice = None, **overrides: Any
) -> PreTrainedConfig:
    """Configuration of an encoder, by hub name or folder.

    Args:
        checkpoint: hub name or folder.
        adapter: see `adapter_class`.
        overrides: options in place of the checkpoint's own.

    Raises:
        DataError: the configuration cannot be read, or is of an encoder that the model does not serve.
    """
    folder, where = Path(checkpoint), f"encoder '{checkpoint}': "
    if folder.is_file():
        raise DataError(
            f"{where}it is a file: give a folder with {CONFIG_FILE} and weights, or a hub name; "
            "import_encoder makes a folder of an original WavLM file"
        )
    if folder.is_dir():
        _refuse_other_folder(folder)
    if adapter is not None:  # a module from elsewhere may register a model with transformers
        _adapter_class(None, adapter, where, DataError)
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **overrides)
    except Exception as error:  # transformers raises nearly anything
        raise DataError(
            f"encoder '{checkpoint}' cannot be loaded (hub name or folder?): {_explain(error)}"
        ) from error
    refuse_unservable(config, where, adapter=adapter)
    return config


def refuse_unservable(
    config: PreTrainedConfig,
    where: str,
    kind: type[UserError] = DataError,
    adapter: AdapterChoice = None,
) -> None:
    """Refuse an encoder that the model cannot serve, by its configuration.

    Args:
        config: configuration of the encoder.
        where: prefix of an option's name in messages.
        kind: class of the error to raise.
        adapter: see `adapter_class`.

    Raises:
        UserError: of the kind, naming every option that is in the way, its value and what to do.
    """
    family = _adapter_class(config.model_type, adapter, where, kind)
    faults = [f"{option} is {value!r}: {remedy}" for option, value, remedy in family.faults(config)]
    if faults:
        raise kind(where + "; ".join(faults))


def build_encoder(config: PreTrainedConfig, where: str, adapter: AdapterChoice = None) -> PreTrainedModel:
    """Encoder of a configuration, with random weights, in float32, without the units that were pruned.

    Args:
        config: configuration of an encoder that the model serves.
        where: prefix of messages.
        adapter: see `adapter_class`.

    Raises:
        DataError: the model cannot serve the encoder, or the configuration keeps units that it does not have.
    """
    refuse_unservable(config, where, adapter=adapter)
    encoder = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")
    kept = getattr(config, KEPT_UNITS, None)
    if kept is not None:
        family = _adapter_class(config.model_type, adapter, where, DataError)
        try:
            keep_units(family(encoder), KeptUnits.from_config(kept))
        except UserError as error:
            raise DataError(f"{where}{error}") from error
    return encoder


def _refuse_other_folder(folder: Path) -> None:
    values = read_json(folder / CONFIG_FILE)
    if "model_type" in values:
        return
    if {"model", "encoder"} <= values.keys():
        raise DataError(
            f"'{folder}' is a saved speaker model, not an encoder: embed.model and "
            "SpeakerModel.from_pretrained take it"
        )
    raise DataError(f"'{folder / CONFIG_FILE}' is not of an encoder: it lacks model_type")


def _adapter_class(
    model_type: Any, adapter: AdapterChoice, where: str, kind: type[UserError]
) -> type[EncoderAdapter]:
    try:
        return adapter_class(model_type, adapter)
    except ParameterError as error:
        raise kind(f"{where}{error}") from error


def _explain(error: Exception) -> str:
    """Complaint of transformers about a configuration, in one line."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    return reason(cause if isinstance(cause, Exception) else error)
