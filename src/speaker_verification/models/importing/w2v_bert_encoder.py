"""Encoder of public W2V-BERT checkpoints, whole or pruned, as the shapes of its weights tell it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig, Wav2Vec2BertConfig

from speaker_verification.models.importing.public_weights import numbered
from speaker_verification.models.pruning.kept_units import KEPT_UNITS, KeptUnits

_LEFT, _RIGHT = 64, 8  # greatest distances of the published encoder
_NETWORKS = ("ffn1", "ffn2")
_PROJECTION = "feature_projection.projection.weight"
_POSITIONS = "self_attn.distance_embedding.weight"


def infer_w2v_bert_configuration(weights: Mapping[str, Tensor]) -> Wav2Vec2BertConfig:
    """Configuration inferred from shapes; the rest is as in the published encoder.

    Args:
        weights: weights by transformers' names, those of `absent_modules` among them.

    Raises:
        KeyError: missing weight.
        ValueError: the distances of relative positions are not the published ones.
    """
    width, features = weights[_PROJECTION].shape
    positions, head_width = weights[f"{_block(0)}.{_POSITIONS}"].shape
    if positions != _LEFT + 1 + _RIGHT:
        raise ValueError(f"{positions} relative positions, not {_LEFT} to the left and {_RIGHT} to the right")
    sizes = {size for networks in _network_sizes(weights) for size in networks}
    return Wav2Vec2BertConfig(
        hidden_size=width,
        num_hidden_layers=_num_blocks(weights),
        num_attention_heads=width // head_width,
        intermediate_size=sizes.pop() if len(sizes) == 1 else max(4 * width, *sizes),
        feature_projection_input_dim=features,
        conv_depthwise_kernel_size=weights[f"{_block(0)}.conv_module.depthwise_conv.weight"].shape[2],
        left_max_position_embeddings=_LEFT,
        right_max_position_embeddings=_RIGHT,
        apply_spec_augment=False,
    )


def record_kept_units(config: PreTrainedConfig, weights: Mapping[str, Tensor]) -> None:
    """Record in a configuration how many of its units pruning has left; their numbers are not known.

    Args:
        config: configuration of the whole encoder, changed in place.
        weights: see `infer_w2v_bert_configuration`.

    Raises:
        KeyError: missing weight.
    """
    blocks = [_block(index) for index in range(_num_blocks(weights))]
    head_width = weights[f"{_block(0)}.{_POSITIONS}"].shape[1]
    heads = [len(weights[f"{block}.self_attn.linear_q.weight"]) // head_width for block in blocks]
    networks = _network_sizes(weights)
    channels = [len(weights[f"{block}.conv_module.depthwise_conv.weight"]) for block in blocks]
    counts = {*heads}, {size for sizes in networks for size in sizes}, {*channels}
    if counts != ({config.num_attention_heads}, {config.intermediate_size}, {config.hidden_size}):
        kept = KeptUnits(
            tuple(tuple(range(count)) for count in heads),
            tuple(tuple(tuple(range(size)) for size in sizes) for sizes in networks),
            tuple(tuple(range(count)) for count in channels),
        )
        config.update({KEPT_UNITS: kept.to_config()})


def absent_modules(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of modules without units, by name, which a pruned checkpoint leaves out as a whole.

    Args:
        weights: weights by transformers' names.
    """
    tables = numbered(weights, rf"encoder\.layers\.(\d+)\.{_POSITIONS}")
    if not tables or _PROJECTION not in weights:
        return {}
    width, table = len(weights[_PROJECTION]), weights[tables[0]]
    shapes = {
        "self_attn": {
            **{f"linear_{name}.weight": (0, width) for name in "qkv"},
            **{f"linear_{name}.bias": (0,) for name in "qkv"},
            "linear_out.weight": (width, 0),
            "linear_out.bias": (width,),
            "distance_embedding.weight": table.shape,
        },
        **{
            network: {
                "intermediate_dense.weight": (0, width),
                "intermediate_dense.bias": (0,),
                "output_dense.weight": (width, 0),
                "output_dense.bias": (width,),
            }
            for network in _NETWORKS
        },
    }
    absent: dict[str, Tensor] = {}
    for index in range(_num_blocks(weights)):
        for module, inner in shapes.items():
            start = f"{_block(index)}.{module}"
            if any(name.startswith(start) for name in weights):
                continue
            absent |= {f"{start}.{name}": torch.zeros(shape) for name, shape in inner.items()}
            absent |= {f"{start}_layer_norm.{name}": torch.zeros(width) for name in ("weight", "bias")}
    return absent


def _block(index: int) -> str:
    return f"encoder.layers.{index}"


def _num_blocks(weights: Mapping[str, Tensor]) -> int:
    return len(numbered(weights, r"encoder\.layers\.(\d+)\.final_layer_norm\.weight"))


def _network_sizes(weights: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Inner units of the feed-forward networks, by block."""
    return [
        tuple(len(weights[f"{_block(index)}.{name}.intermediate_dense.weight"]) for name in _NETWORKS)
        for index in range(_num_blocks(weights))
    ]
