"""Configurations of encoders: which of the options of transformers' encoders this model serves.

Served are any width, depth and convolutions, both norms of the convolutions, both orders of layer norm, every
activation, attention adapters inside the blocks, HuBERT's batch norm before the positional convolution,
dropouts, layer drop and masks. Refused is what would change the length or the width of the states, or what
transformers itself fails or computes nonsense with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from speaker_verification.common.errors import DataError, UserError
from speaker_verification.models.settings import CONFIG_FILE, SUPPORTED_ENCODERS
from speaker_verification.models.weight_files import read_json, reason

MAX_BLOCKS = 255  # layer attentive pooling keeps the number of a state in a byte
COUNTS = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "mask_time_length",
    "mask_feature_length",
)
CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
MASKS = ("mask_time_prob", "mask_feature_prob")
ACTIVATIONS = ("hidden_act", "feat_extract_activation")
UNDECLARED = {"mask_feature_min_masks"}  # transformers' WavLM reads it, its configuration lacks it
DIVISORS = ("num_attention_heads", "num_conv_pos_embedding_groups")


class Fault(NamedTuple):
    """An option that cannot be served, and what to do about it."""

    option: str
    value: Any
    remedy: str


def configuration_of(
    values: Mapping[str, Any], where: str, kind: type[UserError] = DataError, closed: bool = False
) -> PreTrainedConfig:
    """The configuration that plain values, with their `model_type`, stand for.

    Args:
        values: options of the encoder.
        where: prefix of an option's name in messages.
        kind: of error to raise.
        closed: refuse options that the encoder does not have.

    Raises:
        UserError: of the kind, if the values are no configuration that the model serves.
    """
    options = dict(values)
    model_type = options.pop("model_type", None)
    if model_type not in SUPPORTED_ENCODERS:
        raise kind(f"{where}{_unsupported(model_type)}")
    try:
        config = AutoConfig.for_model(model_type, **options)
    except Exception as error:  # transformers raises nearly anything
        raise kind(f"{where}{_explain(error)}") from error
    known = AutoConfig.for_model(model_type).to_dict().keys() | UNDECLARED
    unknown = sorted(options.keys() - known) if closed else []
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise kind(f"{where}{unknown[0]} is no option of {model_type}{hint}")
    refuse_unservable(config, where, kind)
    return config


def read_configuration(checkpoint: str | Path, **overrides: Any) -> PreTrainedConfig:
    """The configuration of an encoder, by hub name or folder.

    Args:
        checkpoint: hub name or folder.
        overrides: options in place of the checkpoint's own.

    Raises:
        DataError: it cannot be read, or is none that the model serves.
    """
    folder, where = Path(checkpoint), f"encoder '{checkpoint}': "
    if folder.is_file():
        raise DataError(
            f"{where}it is a file: give a folder with {CONFIG_FILE} and weights, or a hub name; "
            "import_encoder makes a folder of an original WavLM file"
        )
    if folder.is_dir():
        _refuse_other_folder(folder)
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **overrides)
    except Exception as error:  # transformers raises nearly anything
        raise DataError(
            f"encoder '{checkpoint}' cannot be loaded (hub name or folder?): {_explain(error)}"
        ) from error
    refuse_unservable(config, where)
    return config


def refuse_unservable(config: PreTrainedConfig, where: str, kind: type[UserError] = DataError) -> None:
    """Refuse an encoder that this model cannot serve, by its configuration.

    Args:
        config: of the encoder.
        where: prefix of an option's name in messages.
        kind: of error to raise.

    Raises:
        UserError: of the kind, naming every option that is in the way, its value and what to do.
    """
    if config.model_type not in SUPPORTED_ENCODERS:
        raise kind(f"{where}{_unsupported(config.model_type)}")
    faults = [f"{option} is {value!r}: {remedy}" for option, value, remedy in _faults(config)]
    if faults:
        raise kind(where + "; ".join(faults))


def build_encoder(config: PreTrainedConfig, where: str) -> PreTrainedModel:
    """An encoder of a configuration, with random weights, in float32.

    Args:
        config: of an encoder that the model serves.
        where: prefix of messages.

    Raises:
        DataError: the model cannot serve it.
    """
    refuse_unservable(config, where)
    return AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")


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


def _faults(config: PreTrainedConfig) -> Iterator[Fault]:
    """Options in the way; those that the others are divided by come first."""
    found = [*_faults_alone(config)]
    yield from found
    if not found:
        yield from _faults_together(config)


def _faults_alone(config: PreTrainedConfig) -> Iterator[Fault]:
    """Options that no others could make good."""
    options: dict[str, Any] = config.to_dict()
    if options.get("add_adapter"):
        yield Fault("add_adapter", True, "it would change the last state's length: set it to false")
    if options.get("quantization_config"):
        method = options["quantization_config"].get("quant_method")
        yield Fault("quantization_config", method, "take the encoder's float weights")
    if not 1 <= options["num_hidden_layers"] <= MAX_BLOCKS:
        yield Fault("num_hidden_layers", options["num_hidden_layers"], f"it must be 1 to {MAX_BLOCKS}")
    for name in COUNTS:
        if options[name] < 1:
            yield Fault(name, options[name], "it must be at least 1")
    for name in CONVOLUTIONS:
        if not options[name] or min(options[name]) < 1:
            yield Fault(name, options[name], "it must hold a number of at least 1 for every convolution")
    for name in DROPOUTS:
        if not 0 <= options[name] < 1:
            yield Fault(name, options[name], "it must be at least 0 and below 1")
    for name in MASKS:
        if not 0 <= options[name] <= 1:
            yield Fault(name, options[name], "it must be 0 to 1")
    for name in ACTIVATIONS:
        if options[name] not in ACT2FN:
            yield Fault(name, options[name], f"use one of {', '.join(ACT2FN)}")
    if options["feat_extract_norm"] not in ("group", "layer"):
        yield Fault("feat_extract_norm", options["feat_extract_norm"], "use group or layer")
    if not options["layer_norm_eps"] > 0:
        yield Fault("layer_norm_eps", options["layer_norm_eps"], "it must be above 0")
    if options.get("adapter_attn_dim") is not None and options["adapter_attn_dim"] < 1:
        yield Fault("adapter_attn_dim", options["adapter_attn_dim"], "it must be at least 1, or null")


def _faults_together(config: PreTrainedConfig) -> Iterator[Fault]:
    """Options that do not fit each other."""
    for name in DIVISORS:
        if config.hidden_size % getattr(config, name):
            yield Fault(name, getattr(config, name), f"it must divide hidden_size {config.hidden_size}")
    masks_features = config.apply_spec_augment and config.mask_feature_prob > 0
    if masks_features and config.mask_feature_length > config.hidden_size:
        yield Fault(
            "mask_feature_length",
            config.mask_feature_length,
            f"it must not exceed hidden_size {config.hidden_size}",
        )
    if config.model_type != "wavlm":
        return
    if masks_features and not hasattr(config, "mask_feature_min_masks"):
        yield Fault(
            "mask_feature_prob",
            config.mask_feature_prob,
            "transformers' WavLM also needs mask_feature_min_masks: set that, to 0, or this to 0",
        )
    if config.num_buckets < 4:
        yield Fault("num_buckets", config.num_buckets, "it must be at least 4")
    elif config.max_bucket_distance <= config.num_buckets // 4:
        yield Fault(
            "max_bucket_distance",
            config.max_bucket_distance,
            f"it must exceed a quarter of num_buckets {config.num_buckets}",
        )


def _unsupported(model_type: Any) -> str:
    return f"model_type is '{model_type}': use one of {', '.join(SUPPORTED_ENCODERS)}"


def _explain(error: Exception) -> str:
    """Complaint of transformers about a configuration, in one line."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    return reason(cause if isinstance(cause, Exception) else error)
