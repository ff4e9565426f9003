"""Import of the original WavLM files `{cfg, model}` to transformers' form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import WavLMConfig, WavLMModel

from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.configuration import refuse_unservable
from speaker_verification.models.importing.public_weights import (
    Rules,
    load_renamed,
    numbered,
    only_tensors,
    rename,
)
from speaker_verification.models.weight_files import read_torch_file

# From transformers' names to the original ones, applied in this order.
_RULES: Rules = (
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", r"\1.2."),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
)
# From transformers' fields to the original ones and their defaults where cfg lacks them.
_FIELDS: dict[str, tuple[str, Any]] = {
    "hidden_size": ("encoder_embed_dim", 768),
    "num_hidden_layers": ("encoder_layers", 12),
    "num_attention_heads": ("encoder_attention_heads", 12),
    "intermediate_size": ("encoder_ffn_embed_dim", 3072),
    "hidden_act": ("activation_fn", "gelu"),
    "conv_bias": ("conv_bias", False),
    "num_conv_pos_embeddings": ("conv_pos", 128),
    "num_conv_pos_embedding_groups": ("conv_pos_groups", 16),
    "num_buckets": ("num_buckets", 320),
    "max_bucket_distance": ("max_distance", 1280),
    "do_stable_layer_norm": ("layer_norm_first", False),
    "hidden_dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "feat_proj_dropout": ("dropout_input", 0.0),
    "layerdrop": ("encoder_layerdrop", 0.0),
}
_DEFAULT_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
_CONVOLUTIONS = r"\[\s*\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,?\s*\)\s*\]\s*(?:\*\s*(\d+))?"


def import_encoder(path: str | Path) -> WavLMModel:
    """Encoder of an original WavLM file (WavLM-Base.pt, WavLM-Base+.pt, WavLM-Large.pt).

    The probability of time masks is transformers' default, not that of the pre-training in `cfg`.

    Args:
        path: file `{cfg, model}`.

    Returns:
        Encoder in transformers' form, in evaluation mode; `save_pretrained` saves it.

    Raises:
        DataError: the file is no original WavLM file, its encoder cannot be served, or its weights do not fit
            its configuration; missing and unexpected weights are listed.

    Source: S. Chen et al., WavLM, IEEE JSTSP 2022; names of its public code.
    """
    path = Path(path)
    content = read_torch_file(path)
    if not {"cfg", "model"} <= content.keys():
        raise DataError(
            f"'{path}' is no original WavLM file: it has {sorted(content)[:5]}, not cfg and model"
        )
    weights = only_tensors(content["model"], path)
    encoder = WavLMModel(_configuration(content["cfg"], path))
    load_renamed(encoder, weights, original_wavlm_name, path)
    return encoder.eval()


def original_wavlm_name(name: str) -> str:
    """Original name of a weight of transformers' WavLM."""
    return rename(name, _RULES)


def infer_wavlm_configuration(weights: Mapping[str, Tensor]) -> WavLMConfig:
    """Configuration inferred from the shapes of original WavLM weights.

    The rest is as in the three published models: strides, the greatest relative distance, and a LayerNorm
    behind the blocks where the convolutions have layer norm. Dropouts are those of WavLM-Base+.

    Args:
        weights: weights by their original names, unified by `one_naming`.

    Raises:
        KeyError: missing weight.
    """
    first = "encoder.layers.0.self_attn"
    convolutions = [
        weights[name].shape for name in numbered(weights, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight")
    ]
    positional = weights["encoder.pos_conv.0.parametrizations.weight.original1"].shape  # (D, D / groups, K)
    layer_norm = "feature_extractor.conv_layers.1.2.weight" in weights
    return WavLMConfig(
        hidden_size=positional[0],
        num_hidden_layers=len(numbered(weights, r"encoder\.layers\.(\d+)\.fc1\.weight")),
        num_attention_heads=weights[f"{first}.grep_a"].shape[1],
        intermediate_size=weights["encoder.layers.0.fc1.weight"].shape[0],
        conv_dim=[shape[0] for shape in convolutions],
        conv_kernel=[shape[2] for shape in convolutions],
        conv_stride=[5] + [2] * (len(convolutions) - 1),
        conv_bias="feature_extractor.conv_layers.0.0.bias" in weights,
        num_conv_pos_embeddings=positional[2],
        num_conv_pos_embedding_groups=positional[0] // positional[1],
        num_buckets=weights[f"{first}.relative_attention_bias.weight"].shape[0],
        feat_extract_norm="layer" if layer_norm else "group",
        do_stable_layer_norm=layer_norm,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        activation_dropout=0.0,
        feat_proj_dropout=0.1,
        layerdrop=0.05,
    )


def _configuration(cfg: Any, origin: Path) -> WavLMConfig:
    if not isinstance(cfg, Mapping):
        raise DataError(f"'{origin}': its cfg is no dictionary but {type(cfg).__name__}")
    try:
        layers = _convolutions(str(cfg.get("conv_feature_layers", _DEFAULT_CONVOLUTIONS)))
        config = WavLMConfig(
            **{field: cfg.get(name, default) for field, (name, default) in _FIELDS.items()},
            conv_dim=[channels for channels, _, _ in layers],
            conv_kernel=[kernel for _, kernel, _ in layers],
            conv_stride=[stride for _, _, stride in layers],
            feat_extract_norm="group" if cfg.get("extractor_mode", "default") == "default" else "layer",
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"'{origin}': its cfg is no WavLM configuration: {text}") from error
    refuse_unservable(config, f"'{origin}': ")
    config.do_normalize = cfg.get("normalize", False)
    return config


def _convolutions(text: str) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of every layer, from `[(512,10,5)] + [(512,3,2)] * 4`."""
    if not re.fullmatch(rf"\s*{_CONVOLUTIONS}\s*(?:\+\s*{_CONVOLUTIONS}\s*)*", text):
        raise ValueError(f"conv_feature_layers '{text}' is not a sum of [(channels, kernel, stride)] * times")
    layers: list[tuple[int, int, int]] = []
    for channels, kernel, stride, times in re.findall(_CONVOLUTIONS, text):
        layers += [(int(channels), int(kernel), int(stride))] * int(times or 1)
    return layers
