"""Import of speaker models with W2V-BERT 2.0 and adapter MFA: w2v-BERT-2.0_SV and wespeaker's port."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig, Wav2Vec2BertConfig

from speaker_verification.common.errors import DataError
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.importing.checkpoint import (
    PublicCheckpoint,
    given_configuration,
    inferred_configuration,
    num_rows,
)
from speaker_verification.models.importing.public_weights import ENCODER, Rules, numbered, rename
from speaker_verification.models.importing.wespeaker import read_options, split_head
from speaker_verification.models.settings import ModelSettings

ADAPTERS = "adapter_layers."
HEAD = "classifier."  # start of the names of w2v-BERT-2.0_SV's head, which is saved apart
_LEFT, _RIGHT = 64, 8  # greatest distances of the published encoder
_RULES: Rules = (
    (r"^layer_aggregation\.frames\.adapters\.", ADAPTERS),
    (r"^speaker_network\.attention\.", "pooling.attention."),
    (r"^speaker_network\.projection\.", "bottleneck."),
)


def read_w2v_bert(
    weights: Mapping[str, Tensor], origin: Path, encoder: str | Path | None
) -> PublicCheckpoint:
    """Checkpoint of w2v-BERT-2.0_SV, whose encoder is `front.encoder`, or of wespeaker, `frontend.encoder`.

    Args:
        weights: weights of the whole model, LoRA merged.
        origin: path for messages.
        encoder: hub name or folder of the encoder's configuration; None infers it from shapes.

    Raises:
        DataError: weights are missing.
    """
    if any(name.startswith("frontend.") for name in weights):
        frontend = "frontend.encoder."
        weights, centres, head = split_head(weights, read_options(origin), "arc_margin", origin)
    else:
        frontend = "front.encoder."
        rows = weights.get(f"{HEAD}weight")  # (C, E)
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        centres = None if rows is None else rows.transpose(0, -1).unsqueeze(0)  # (1, E, C)
        head = AamSoftmaxSettings(num_subcentres=1, scale=32.0)
    settings = {
        "frontend": {"checkpoint": str(encoder or "facebook/w2v-bert-2.0")},
        "layer_aggregation": {
            "kind": "adapter_mfa",
            "adapter_mfa": {"adapter_width": num_rows(f"{ADAPTERS}0.0.weight", weights, origin)},
        },
        "speaker_network": {
            "kind": "asp",
            "asp": {
                "embedding_size": num_rows("bottleneck.weight", weights, origin),
                "attention_width": num_rows("pooling.attention.0.weight", weights, origin),
            },
        },
        "initialisation": "torch",
    }
    return PublicCheckpoint(
        origin=origin,
        weights=dict(weights),
        centres=centres,
        encoder=partial(_encoder, origin, weights, frontend, encoder),
        settings=ModelSettings.parse(settings, str(origin)),
        head=head,
        public_name=partial(w2v_bert_name, frontend=frontend),
    )


def w2v_bert_name(name: str, frontend: str) -> str:
    """Name of a weight in the public code, by its name in the speaker model.

    Args:
        name: name in the speaker model.
        frontend: start of the names of the encoder's weights, `front.encoder.` or `frontend.encoder.`.
    """
    return frontend + name.removeprefix(ENCODER) if name.startswith(ENCODER) else rename(name, _RULES)


def infer_w2v_bert_configuration(weights: Mapping[str, Tensor]) -> Wav2Vec2BertConfig:
    """Configuration inferred from the shapes of W2V-BERT's weights; the rest is as in the published encoder.

    Args:
        weights: weights by transformers' names.

    Raises:
        KeyError: missing weight.
        ValueError: the distances of relative positions are not the published ones.
    """
    first = "encoder.layers.0"
    width, features = weights["feature_projection.projection.weight"].shape
    positions, head_width = weights[f"{first}.self_attn.distance_embedding.weight"].shape
    if positions != _LEFT + 1 + _RIGHT:
        raise ValueError(f"{positions} relative positions, not {_LEFT} to the left and {_RIGHT} to the right")
    return Wav2Vec2BertConfig(
        hidden_size=width,
        num_hidden_layers=len(numbered(weights, r"encoder\.layers\.(\d+)\.final_layer_norm\.weight")),
        num_attention_heads=width // head_width,
        intermediate_size=len(weights[f"{first}.ffn1.intermediate_dense.weight"]),
        feature_projection_input_dim=features,
        conv_depthwise_kernel_size=weights[f"{first}.conv_module.depthwise_conv.weight"].shape[2],
        left_max_position_embeddings=_LEFT,
        right_max_position_embeddings=_RIGHT,
        apply_spec_augment=False,
    )


def _encoder(
    origin: Path, weights: Mapping[str, Tensor], prefix: str, encoder: str | Path | None
) -> PreTrainedConfig:
    widths = {
        len(weights[name])
        for name in numbered(weights, rf"{prefix}encoder\.layers\.(\d+)\.ffn[12]\.intermediate_dense\.weight")
    }
    if len(widths) > 1:
        raise DataError(
            f"'{origin}' has a pruned encoder (feed-forward layers of {min(widths)} to {max(widths)} units), "
            "which is not taken"
        )
    if encoder is None:
        kind = "W2V-BERT 2.0"
        config = inferred_configuration(infer_w2v_bert_configuration, kind, weights, prefix, origin)
    else:
        config = given_configuration(encoder)
    # The public code trains without layer drop and time masks, and does not save their vector.
    config.update({"layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    return config
