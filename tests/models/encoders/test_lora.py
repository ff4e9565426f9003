"""LoRA on every family: as the formula says, merged as unmerged, and in every way that an encoder is run."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from speaker_verification.common.errors import ParameterError
from speaker_verification.models import SpeakerModel
from speaker_verification.models.encoder_settings import LoraSettings
from speaker_verification.models.encoders.configuration import build_encoder, configuration_of
from speaker_verification.models.encoders.lora import (
    add_lora,
    load_merged_state,
    lora_layers,
    merged_parameters,
    merged_state,
)
from speaker_verification.models.encoders.w2v_bert import W2vBertAdapter
from speaker_verification.models.pruning import cut, sparsity_of
from speaker_verification.training.optimiser import choose_trained, parameter_groups
from speaker_verification.training.phase import LrMultipliers, PhaseSettings
from tests.support.pruning import FAMILIES, model_of, random_units

LORA = LoraSettings(rank=4, alpha=8)
WEIGHT = "frontend.encoder.encoder.layers.2.attention.q_proj.weight"
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(family: str = "WavLM", lora: LoraSettings | None = LORA, **frontend: Any) -> SpeakerModel:
    """Model in evaluation mode, without layer drop; its LoRA, if any, is no longer zero."""
    model = model_of(family, **frontend)
    model.frontend.config.layerdrop = 0.0
    if lora is not None:
        add_lora(model.frontend.adapter, lora)
        choose_trained(model.frontend, "frozen")
        generator = torch.Generator().manual_seed(4)
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_B["default"].weight, std=0.3, generator=generator)
    return model.eval()


def waves(num_samples: int = 8000) -> Tensor:
    return 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(5))


def states_and_gradients(model: SpeakerModel) -> tuple[Tensor, dict[str, Tensor]]:
    """States (L+1, B, T, D), and the gradients that the mean of their squares has by LoRA's matrices."""
    torch.manual_seed(6)
    states = torch.stack(model.frontend(waves()))
    states.square().mean().backward()
    return states.detach(), {
        name: p.grad for name, p in model.frontend.named_parameters() if p.grad is not None
    }


def assert_same(own: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(own, expected, rtol=tolerance, atol=tolerance)


@every_family
def test_an_updated_layer_follows_the_formula_with_the_targets_of_its_family(family: str) -> None:
    model, plain = build(family), build(family, lora=None)
    ends = ("linear_q", "linear_v") if family.startswith("W2V-BERT") else ("q_proj", "v_proj")
    linear = [name for name, part in plain.named_modules() if isinstance(part, nn.Linear)]
    layers = lora_layers(model)
    assert {*layers} == {name for name in linear if name.endswith(ends)}
    assert len(layers) == 6
    for name, layer in layers.items():
        x = torch.randn(2, 5, 16)
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert (first.shape, second.shape) == ((4, 16), (16, 4))
        # alpha / rank is 2
        assert_same(layer(x), plain.get_submodule(name)(x) + 2 * (x @ first.T @ second.T))


@every_family
def test_merged_embeddings_are_the_unmerged_ones(family: str, tmp_path: Path) -> None:
    model, plain = build(family), build(family, lora=None)
    model.save_pretrained(tmp_path / "lora")
    plain.save_pretrained(tmp_path / "plain")
    merged = SpeakerModel.from_pretrained(tmp_path / "lora")
    assert not lora_layers(merged)
    assert_same(merged.embed(waves()), model.embed(waves()))
    assert not torch.allclose(merged.embed(waves()), plain.embed(waves()), atol=1e-3)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    texts = [(tmp_path / name / "config.json").read_text() for name in ("lora", "plain")]
    assert texts[0] == texts[1]
    assert "lora" not in texts[0].lower()


@every_family
def test_a_pruned_encoder_is_updated_and_merged_as_a_whole_one(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    cut(model, random_units(model))
    sparsity = sparsity_of(model)
    add_lora(model.frontend.adapter, LORA)
    before = model.eval().embed(waves())
    for layer in lora_layers(model).values():
        nn.init.ones_(layer.lora_B["default"].weight)
    model.save_pretrained(tmp_path)
    merged = SpeakerModel.from_pretrained(tmp_path)
    assert not torch.allclose(model.embed(waves()), before, atol=1e-3)
    assert_same(merged.embed(waves()), model.embed(waves()))
    assert sparsity_of(merged) == sparsity > 0


def test_the_published_shape_has_the_weights_of_the_formula() -> None:
    """24 blocks, two layers each, two matrices of 64 x 1024."""
    with torch.device("meta"):
        encoder = build_encoder(configuration_of({"model_type": "wav2vec2-bert"}, ""), "")
    add_lora(W2vBertAdapter(encoder), LoraSettings(rank=64))
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 24 * 2 * 2 * 64 * 1024


def test_a_new_update_is_zero_and_drawn_from_the_seed_as_peft_draws_it() -> None:
    drawn = []
    for seed in (7, 7, 8):
        model, plain = build(lora=None), build(lora=None)
        torch.manual_seed(seed)
        add_lora(model.frontend.adapter, LORA)
        assert torch.equal(model.embed(waves()), plain.embed(waves()))
        first = torch.stack([layer.lora_A["default"].weight for layer in lora_layers(model).values()])
        bound = 1 / math.sqrt(16)  # Kaiming's, with the slope of the square root of 5
        assert 0.9 * bound < float(first.detach().abs().max()) <= bound
        drawn.append(first)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@every_family
@pytest.mark.parametrize("frontend_mode", ["evaluation", "training"])
def test_lora_alone_learns_and_as_its_block_does(family: str, frontend_mode: Any) -> None:
    model = build(family)
    model.train()
    model.frontend.begin_training(frontend_mode)
    model(waves()).square().sum().backward()
    learns = {name for name, p in model.frontend.named_parameters() if p.grad is not None}
    assert len(learns) == 12
    assert all(".lora_" in name and bool(model.frontend.get_parameter(name).grad.any()) for name in learns)
    multipliers = LrMultipliers(frontend=0.5, block_decay=0.1)
    groups = {group["name"]: group for group in parameter_groups(model, nn.Linear(1, 1), multipliers)}
    assert [*groups] == ["head", "backend", "block_00", "block_01", "block_02"]
    assert groups["block_01"]["lr_multiplier"] == pytest.approx(0.05)
    own = {id(p) for p in model.frontend.adapter.blocks[1].parameters() if p.requires_grad}
    assert {id(p) for p in groups["block_01"]["params"]} == own


@every_family
def test_the_original_attention_has_the_updates_too(family: str) -> None:
    fused, original = (states_and_gradients(build(family, attention=kind)) for kind in ("sdpa", "original"))
    assert_same(original, fused, 2e-6)


@every_family
@pytest.mark.parametrize("frontend_mode", ["evaluation", "training"])
def test_recomputed_blocks_have_the_same_gradients(family: str, frontend_mode: Any) -> None:
    found, forwards = [], []
    for recomputed in (False, True):
        model = build(family, checkpoint_activations=recomputed)
        model.frontend.begin_training(frontend_mode)
        calls: list[int] = []
        target = next(iter(lora_layers(model).values()))
        target.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found.append(states_and_gradients(model))
        forwards.append(len(calls))
    assert_same(found[1], found[0])
    assert forwards == [1, 2]


@pytest.mark.parametrize("family", ["WavLM", "W2V-BERT"])
def test_compiled_blocks_have_the_same_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = build(family), build(family)
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=CompileCounterWithBackend("aot_eager"))
    )
    compiled.frontend.compile_blocks()
    assert_same(states_and_gradients(compiled), states_and_gradients(plain))


@pytest.mark.parametrize("family", ["WavLM", "WavLM Large", "wav2vec 2.0 Large"])
def test_a_long_recording_is_encoded_in_chunks_with_the_updates(family: str) -> None:
    model = build(family)
    with torch.inference_mode():
        whole = torch.stack(model.frontend(waves(40_000)))
        assert_same(torch.stack(model.frontend.encode_in_chunks(waves(40_000))), whole, 1e-5)


def test_dropout_drops_in_evaluation_mode_too_and_not_where_embeddings_are_taken() -> None:
    model = build(lora=LORA.model_copy(update={"dropout": 0.5}))
    plain = build()
    model.train()
    model.frontend.begin_training("evaluation")
    assert not torch.equal(model.frontend(waves())[-1], model.frontend(waves())[-1])
    assert torch.equal(model.embed(waves()), plain.embed(waves()))
    assert torch.equal(merged_state(model)[WEIGHT], merged_state(plain)[WEIGHT])


def test_dropout_where_an_attention_multiplies_by_the_weights_itself_is_refused() -> None:
    model = build(lora=LORA.model_copy(update={"dropout": 0.5}), attention="original")
    model.embed(waves())
    model.frontend.begin_training("evaluation")
    with pytest.raises(
        ParameterError, match=r"'lora.dropout' is 0.5, .* set it to 0, or .*attention to sdpa"
    ):
        model.frontend(waves())


def test_a_merged_state_is_loaded_whole_and_its_updates_are_zero() -> None:
    model = build()
    expected, embeddings = copy.deepcopy(merged_state(model)), model.embed(waves())
    assert expected.keys() == build(lora=None).state_dict().keys()
    load_merged_state(model, expected)
    assert_same(model.embed(waves()), embeddings)
    assert all(torch.equal(value, expected[name]) for name, value in merged_state(model).items())
    assert not any(layer.lora_B["default"].weight.any() for layer in lora_layers(model).values())


def test_gradients_reach_the_updates_through_merged_parameters() -> None:
    """d/dB of the sum of B A, times 2, is twice the sums of A's rows in every row of B."""
    model = build()
    merged = merged_parameters(model)
    assert merged.keys() == dict(build(lora=None).named_parameters()).keys()
    layer = lora_layers(model)[WEIGHT.removesuffix(".weight")]
    merged[WEIGHT].sum().backward()
    rows = layer.lora_A["default"].weight.detach().sum(dim=1)
    assert_same(layer.lora_B["default"].weight.grad, (2 * rows).expand(16, 4))
    assert layer.base_layer.weight.grad is None


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("out_proj",), {"attention.out_proj"}),
        (("feed_forward.output_dense", "k_proj"), {"feed_forward.output_dense", "attention.k_proj"}),
        (
            ("layers.0.attention.q_proj", "layers.1.attention.q_proj", "layers.2.attention.q_proj"),
            {"attention.q_proj"},
        ),
    ],
)
def test_targets_of_the_phase_replace_the_family_s(targets: tuple[str, ...], expected: set[str]) -> None:
    model = build(lora=LORA.model_copy(update={"targets": targets}))
    prefix = "frontend.encoder.encoder.layers."
    assert {*lora_layers(model)} == {f"{prefix}{index}.{name}" for index in range(3) for name in expected}


def test_unknown_targets_are_refused_with_the_nearest_name() -> None:
    model = build("W2V-BERT", lora=None)
    message = r"'lora.targets': .* 'linear_qq': did you mean 'linear_q'\? Known are .*linear_k, .*linear_v"
    with pytest.raises(ParameterError, match=message):
        add_lora(model.frontend.adapter, LORA.model_copy(update={"targets": ("linear_v", "linear_qq")}))
    assert not lora_layers(model)


def test_an_encoder_whose_adapter_names_no_targets_needs_those_of_the_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(lora=None)
    monkeypatch.setattr(type(model.frontend.adapter), "lora_targets", ())
    with pytest.raises(ParameterError, match=r"'lora.targets' is null, and WavLMAdapter .*q_proj"):
        add_lora(model.frontend.adapter, LORA)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(lora=None)
    monkeypatch.setattr("speaker_verification.models.encoders.lora.find_spec", lambda _: None)
    add_lora(model.frontend.adapter, LoraSettings())
    with pytest.raises(
        ParameterError, match=r"'lora.rank' is 4, .*pip install 'speaker-verification\[lora\]'"
    ):
        add_lora(model.frontend.adapter, LORA)


@pytest.mark.parametrize("frontend", ["blocks", "no_convolutions", "trained"])
def test_lora_beside_trained_weights_is_refused(frontend: str) -> None:
    values = {"epochs": 1, "crop_seconds": 1, "batch_size": 2, "frontend_mode": "training"}
    with pytest.raises(ParameterError, match=rf"lora.rank 4 needs frontend frozen.*'{frontend}'"):
        PhaseSettings.parse(values | {"frontend": frontend, "lora": {"rank": 4}}, "phase")
