"""Import of speaker models with MHFA or CA-MHFA on an original WavLM: SLT22's public code and wespeaker's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings
from speaker_verification.models.importing.checkpoint import (
    PublicCheckpoint,
    given_configuration,
    inferred_configuration,
    num_rows,
    single_centres,
)
from speaker_verification.models.importing.original_wavlm import (
    infer_wavlm_configuration,
    original_wavlm_name,
)
from speaker_verification.models.importing.public_weights import ENCODER, Rules, rename
from speaker_verification.models.importing.wespeaker import option, read_options, split_head
from speaker_verification.models.settings import ModelSettings

MHFA_RULES: Rules = (
    (r"^key_projection\.", "cmp_linear_k."),
    (r"^value_projection\.", "cmp_linear_v."),
    (r"^head_logits\.", "att_head."),
    (r"^projection\.", "pooling_fc."),
)
SAMPLE_SCALE = 2.0**15  # of 16-bit samples


@dataclass(frozen=True)
class Naming:
    """Starts of the names of a public code's weights."""

    encoder: str
    backend: str

    def public_name(self, name: str) -> str:
        """Name of a weight in the public code, by its name in the speaker model."""
        part, _, rest = name.partition(".")
        if part == "frontend":
            return self.encoder + original_wavlm_name(name.removeprefix(ENCODER))
        if part == "speaker_network":
            return self.backend + rename(rest, MHFA_RULES)
        return self.backend + {"key.logits": "weights_k", "value.logits": "weights_v"}[rest]


SLT22 = Naming("__S__.model.", "__S__.backend.")
WESPEAKER = Naming("model.", "back_end.")


def read_slt22(weights: Mapping[str, Tensor], origin: Path, encoder: str | Path | None) -> PublicCheckpoint:
    """Checkpoint of SLT22's public code.

    Args:
        weights: weights of the whole model.
        origin: path for messages.
        encoder: hub name or folder of the encoder's configuration; None infers it from shapes.

    Raises:
        DataError: weights are missing.
    """
    rest = dict(weights)
    centres = single_centres(rest.pop("__L__.weight", None))
    head = AamSoftmaxSettings(num_subcentres=1, scale=30.0, initialisation="xavier_normal")
    return _read(SLT22, rest, centres, head, origin, encoder)


def read_wespeaker_mhfa(
    weights: Mapping[str, Tensor], origin: Path, encoder: str | Path | None
) -> PublicCheckpoint:
    """Checkpoint of wespeaker with MHFA (wespeaker_ssl_public, Wespeaker_SSL) or CA-MHFA (Wespeaker_SSL).

    Args:
        weights: weights of the whole model.
        origin: path for messages.
        encoder: hub name or folder of the encoder's configuration; None infers it from shapes.

    Raises:
        DataError: weights are missing.
    """
    options = read_options(origin)
    rest, centres, head = split_head(weights, options, "arc_margin_intertopk_subcenter", origin)
    norm = f"{WESPEAKER.encoder}encoder.layer_norm."
    lacks_norm = _is_large(WESPEAKER, rest) and f"{norm}weight" not in rest
    if lacks_norm:  # of Wespeaker_SSL, which takes no state behind it
        width = num_rows(f"{WESPEAKER.encoder}encoder.pos_conv.0.bias", rest, origin)
        rest |= {f"{norm}weight": torch.ones(width), f"{norm}bias": torch.zeros(width)}
    first = f"{WESPEAKER.encoder}feature_extractor.conv_layers.0.0.weight"
    if first in rest and _takes_samples(options, lacks_norm or _has_context(WESPEAKER, rest)):
        rest[first] = rest[first] * SAMPLE_SCALE  # a power of two: exact
    return _read(WESPEAKER, rest, centres, head, origin, encoder)


def _takes_samples(options: Mapping[str, Any], otherwise: bool) -> bool:
    """Whether waveforms were 16-bit samples, as in Wespeaker_SSL, and not floats of at most 1.

    Args:
        options: options of the training.
        otherwise: answer where there are none.
    """
    dataset = option(options, "dataset_args") or {}
    return bool(dataset.get("raw_wav")) and "frontend" not in dataset if options else otherwise


def _is_large(naming: Naming, weights: Mapping[str, Tensor]) -> bool:
    """Whether convolutions have layer norm, as in WavLM-Large."""
    return f"{naming.encoder}feature_extractor.conv_layers.1.2.weight" in weights


def _has_context(naming: Naming, weights: Mapping[str, Tensor]) -> bool:
    """Whether queries are convolutions over several frames, as in CA-MHFA."""
    queries = weights.get(f"{naming.backend}att_head.weight")
    return queries is not None and queries.dim() == 4


def _read(
    naming: Naming,
    weights: dict[str, Tensor],
    centres: Tensor | None,
    head: AamSoftmaxSettings,
    origin: Path,
    encoder: str | Path | None,
) -> PublicCheckpoint:
    queries, context = f"{naming.backend}att_head.weight", 0
    mhfa = {
        "compressed_width": num_rows(f"{naming.backend}cmp_linear_k.weight", weights, origin),
        "num_heads": num_rows(queries, weights, origin),
        "embedding_size": num_rows(f"{naming.backend}pooling_fc.weight", weights, origin),
    }
    if _has_context(naming, weights):
        kernels = weights[queries].squeeze(1).transpose(1, 2)  # (G, 1, R+1, c) -> (G, c, R+1)
        weights, context = weights | {queries: kernels}, kernels.shape[2] - 1
    published = "microsoft/wavlm-large" if _is_large(naming, weights) else "microsoft/wavlm-base-plus"
    settings = {
        "frontend": {"checkpoint": str(encoder or published), "last_state": "before"},
        "layer_aggregation": {"kind": "weighted_sum"},
        "speaker_network": {"kind": "mhfa", "mhfa": mhfa | {"context": context}},
        "initialisation": "torch",
    }
    return PublicCheckpoint(
        origin=origin,
        weights=weights,
        centres=centres,
        encoder=partial(_encoder, origin, weights, naming.encoder, encoder),
        settings=ModelSettings.parse(settings, str(origin)),
        head=head,
        public_name=naming.public_name,
    )


def _encoder(
    origin: Path, weights: Mapping[str, Tensor], prefix: str, encoder: str | Path | None
) -> PreTrainedConfig:
    if encoder is None:
        config = inferred_configuration(infer_wavlm_configuration, "WavLM", weights, prefix, origin)
    else:
        config = given_configuration(encoder)
    config.apply_spec_augment = False  # neither public code trains with time masks
    if f"{prefix}mask_emb" not in weights:
        config.update({"mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    return config
