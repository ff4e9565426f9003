"""Import of speaker models with W2V-BERT 2.0 and adapter MFA: w2v-BERT-2.0_SV and wespeaker's port."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig

from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.importing.checkpoint import (
    PublicCheckpoint,
    below,
    given_configuration,
    inferred_configuration,
    num_rows,
    single_centres,
)
from speaker_verification.models.importing.public_weights import ENCODER, Rules, rename
from speaker_verification.models.importing.w2v_bert_encoder import (
    absent_modules,
    infer_w2v_bert_configuration,
    record_kept_units,
)
from speaker_verification.models.importing.wespeaker import read_options, split_head
from speaker_verification.models.settings import ModelSettings

ADAPTERS = "adapter_layers."
HEAD = "classifier."  # start of the names of w2v-BERT-2.0_SV's head, which is saved apart
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
        centres = single_centres(weights.get(f"{HEAD}weight"))
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        head = AamSoftmaxSettings(num_subcentres=1, scale=32.0)
    absent = absent_modules(below(frontend, weights))
    weights = {**weights, **{f"{frontend}{name}": tensor for name, tensor in absent.items()}}
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
        weights=weights,
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


def _encoder(
    origin: Path, weights: Mapping[str, Tensor], prefix: str, encoder: str | Path | None
) -> PreTrainedConfig:
    given = None if encoder is None else given_configuration(encoder)

    def infer(found: Mapping[str, Tensor]) -> PreTrainedConfig:
        config = given or infer_w2v_bert_configuration(found)
        record_kept_units(config, found)
        return config

    config = inferred_configuration(infer, "W2V-BERT 2.0", weights, prefix, origin)
    # The public code trains without layer drop and time masks, and does not save their vector.
    config.update({"layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    return config
