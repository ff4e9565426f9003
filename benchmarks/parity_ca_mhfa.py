"""CA-MHFA of Wespeaker_SSL: see benchmarks/parity.py."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.public_code import (
    NUM_BLOCKS,
    TRAINING_BAR,
    ImportedSystem,
    add_wespeaker_head,
    as_quantities,
    count,
    differences,
    gradient_difference,
    keep,
    parameters_row,
    public_code,
    public_gradients,
    report,
)
from tests.support import public_systems as systems
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from speaker_verification.models import Margins, import_checkpoint
from speaker_verification.models.importing.mhfa import SAMPLE_SCALE, WESPEAKER
from speaker_verification.models.layer_aggregation.base import AggregationSettings
from speaker_verification.models.layer_aggregation.weighted_sum import WeightedSum
from speaker_verification.models.speaker_networks.mhfa import (
    MhfaSettings,
    MultiHeadFactorisedAttentivePooling,
)
from speaker_verification.training.exchange import GradientExchange
from speaker_verification.training.optimiser import choose_trained

MARGINS = Margins(target=0.2, top_k=5, top_k_penalty=0.06)
CONTEXT = 4
CLIP_NORM = 5.0


@dataclass(frozen=True)
class System:
    """CA-MHFA on an encoder of WavLM-Base's or WavLM-Large's type, two blocks."""

    name: str
    wavlm: Mapping[str, Any]
    num_groups: int
    compressed_width: int
    embedding_size: int
    gradient_scale: float
    kept: bool = False


SYSTEMS = (
    System("ca_mhfa", systems.ORIGINAL_BASE, 5, 6, 10, 0.08, kept=True),
    System("ca_mhfa_large", systems.ORIGINAL_LARGE, 5, 6, 10, 0.03, kept=True),
    System(
        "ca_mhfa, published widths",
        systems.ORIGINAL_BASE
        | {"encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12},
        *(64, 128, 256, 0.08),
    ),
    System(
        "ca_mhfa_large, published widths",
        systems.ORIGINAL_LARGE
        | {"encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16},
        *(64, 128, 256, 0.03),
    ),
)
PUBLISHED_STATES = {"ca_mhfa, 12 blocks": (13, 768), "ca_mhfa_large, 24 blocks": (25, 1024)}


def compare(folder: Path, fixtures: Path | None) -> list[bool]:
    """Compare systems of all sizes; one verdict each.

    Args:
        folder: clone of Wespeaker_SSL.
        fixtures: folder for the public numbers; None keeps none.
    """
    with public_code(folder, "wespeaker"):
        return [
            *(_compare(system, fixtures) for system in SYSTEMS),
            *(_compare_parameters(name, *states) for name, states in PUBLISHED_STATES.items()),
        ]


def _compare(system: System, fixtures: Path | None) -> bool:
    """One system, its gradients scaled on their way into the encoder, and then all clipped by their norm."""
    waveforms, labels = systems.draw_batch()
    public = _public_model(system)
    shapes = systems.shapes_of(public)
    public.load_state_dict(systems.draw_weights(shapes, systems.SEED))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model_3.pt"
        torch.save(public.state_dict(), path)
        config = import_checkpoint(path).frontend.config
        config.update(systems.QUIET | {"feat_proj_dropout": 0.0})
        config.save_pretrained(Path(name) / "encoder")
        imported = ImportedSystem(path, Path(name) / "encoder", "projection.weight", WESPEAKER.public_name)

    samples = SAMPLE_SCALE * waveforms
    with torch.no_grad():
        evaluation = public.eval()(samples)
    public.double().train()
    public.projection.update(MARGINS.target)
    embeddings = public(samples.double())
    loss = functional.cross_entropy(public.projection(embeddings, labels), labels)
    loss.backward()
    theirs = as_quantities(evaluation, embeddings, loss, public_gradients(public))
    clip_grad_norm_(public.parameters(), CLIP_NORM)
    clipped = systems.as_arrays(public_gradients(public))
    if system.kept:
        keep(fixtures, system.name, {"model": shapes}, systems.Quantities(theirs.evaluation, {}, {}))

    choose_trained(imported.model.frontend, "no_convolutions")
    ours = imported.quantities(MARGINS, gradient_scale=system.gradient_scale)
    GradientExchange(imported.parameters()).clip(CLIP_NORM, imported.parameters())
    difference = gradient_difference(systems.as_arrays(imported.gradients()), clipped)
    rows = [
        *differences(ours, theirs),
        ("gradients, clipped", difference, TRAINING_BAR),
        parameters_row(imported.backend_parameters(), count(public.back_end)),
    ]
    return report(system.name, rows)


def _compare_parameters(name: str, num_states: int, width: int) -> bool:
    """Compare the numbers of parameters behind the published encoders."""
    network = MultiHeadFactorisedAttentivePooling(width, MhfaSettings(context=CONTEXT))
    aggregations = [WeightedSum(num_states, width, AggregationSettings()) for _ in network.inputs]
    public = _public_backend(num_states, width, 64, 128, 256)
    return report(name, [parameters_row(count(network, *aggregations), count(public))])


def _public_model(system: System) -> Any:
    """The public model, of any size, its head beside it; convolutions frozen, as in its recipe."""
    let_wavlm_be_double(importlib.import_module("wespeaker.models.ssl.modules"))
    large = "_Large" if system.wavlm["layer_norm_first"] else ""
    wavlm = importlib.import_module(f"wespeaker.models.ssl.WavLM{large}")
    model_class = getattr(
        importlib.import_module(f"wespeaker.models.Transformer_WavLM{large}"),
        f"WavLM{large or '_Base'}_MHFA",
    )
    model = model_class.__new__(model_class)  # its constructor reads an encoder of the published size
    nn.Module.__init__(model)
    options = dict(system.wavlm) | {"encoder_layers": NUM_BLOCKS, "feature_grad_mult": 0.0}
    model.model = wavlm.WavLM(wavlm.WavLMConfig(options))
    model.model.feature_extractor.requires_grad_(False)
    model.feature_grad_mult, model.frozen = system.gradient_scale, False
    model.back_end = _public_backend(
        NUM_BLOCKS + 1,
        system.wavlm["encoder_embed_dim"],
        system.num_groups,
        system.compressed_width,
        system.embedding_size,
    )
    add_wespeaker_head(model, "arc_margin_intertopk_subcenter", system.embedding_size)
    return model


def _public_backend(
    num_states: int, width: int, num_groups: int, compressed_width: int, embedding_size: int
) -> Any:
    return importlib.import_module("wespeaker.models.ssl_backend").MHFA_Group_Conv2D(
        head_nb=num_groups * CONTEXT,
        group_nb=num_groups,
        inputs_dim=width,
        compression_dim=compressed_width,
        outputs_dim=embedding_size,
        nb_layer=num_states,
    )


def let_wavlm_be_double(modules: Any) -> None:
    """Take the forced float32 away from the norms and the GELU of the original WavLM.

    In float64 it would be all that is compared.
    """
    modules.Fp32GroupNorm.forward = nn.GroupNorm.forward
    modules.Fp32LayerNorm.forward = nn.LayerNorm.forward
    modules.gelu = nn.functional.gelu
