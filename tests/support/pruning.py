"""Tiny speaker models of every family of encoders that can be pruned, and patterns of units to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from speaker_verification.models.pruning import KeptUnits, PruningGates
from speaker_verification.models.speaker_model import SpeakerModel
from tests.support.tiny_models import TINY_LARGE, TINY_W2V_BERT, TINY_WAVLM, tiny_settings

FOUR_HEADS = {"num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "WavLM": TINY_WAVLM | FOUR_HEADS,
    "WavLM Large": TINY_LARGE | FOUR_HEADS,
    "HuBERT": TINY_WAVLM | FOUR_HEADS | {"model_type": "hubert", "feat_proj_layer_norm": False},
    "HuBERT Large": TINY_LARGE | FOUR_HEADS | {"model_type": "hubert"},
    "wav2vec 2.0": TINY_WAVLM | FOUR_HEADS | {"model_type": "wav2vec2"},
    "wav2vec 2.0 Large": TINY_LARGE | FOUR_HEADS | {"model_type": "wav2vec2", "adapter_attn_dim": 4},
    "W2V-BERT": TINY_W2V_BERT,
    "W2V-BERT, relative": TINY_W2V_BERT | {"position_embeddings_type": "relative"},
}


def model_of(family: str, **frontend: Any) -> SpeakerModel:
    """Model in evaluation mode whose weights, norms and biases included, are all random."""
    values = dict(FAMILIES[family])
    torch.manual_seed(0)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    encoder = AutoModel.from_config(config, attn_implementation="eager")
    for parameter in encoder.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return SpeakerModel(encoder, tiny_settings(FAMILIES[family], **frontend)).eval()


def random_units(model: SpeakerModel, seed: int = 0) -> KeptUnits:
    """About half of all units; block 0 has no heads, block 1 no networks, block 2 no convolution."""
    rng = np.random.default_rng(seed)
    emptied = {(0, "attention_heads"), (1, "feed_forward"), (2, "convolution")}
    return KeptUnits.from_modules(
        (
            group.block,
            group.kind,
            ()
            if (group.block, group.kind) in emptied
            else tuple(np.flatnonzero(rng.random(group.num_units) < 0.5).tolist()),
        )
        for group in model.frontend.adapter.unit_groups()
    )


def set_gates(gates: PruningGates, kept: KeptUnits) -> None:
    """Make the gates of kept units open, and all others closed, beyond doubt."""
    sizes = [group.num_units for group in gates.groups]
    values = [torch.full((size,), -100.0) for size in sizes]
    for value, (*_, units) in zip(values, kept.modules(), strict=True):
        value[list(units)] = 100.0
    with torch.no_grad():
        gates.log_alpha.copy_(torch.cat(values))


def states_of(model: SpeakerModel, waveforms: Tensor) -> tuple[Tensor, ...]:
    """States of the encoder, and the embeddings behind them."""
    with torch.no_grad():
        states = model.frontend(waveforms)
        frames = [aggregate(states) for aggregate in model.layer_aggregation.values()]
        return *states, model.speaker_network(*frames)
