from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.optimiser import (
    choose_trained,
    make_optimiser,
    parameter_groups,
    scale_gradients,
    set_learning_rate,
)
from speaker_verification.training.phase import LrMultipliers, OptimiserSettings
from tests.support.tiny_models import TINY_LARGE, TINY_WAVLM, tiny_settings

CONVOLUTIONS = "frontend.encoder.feature_extractor."
BLOCKS = "frontend.encoder.encoder.layers."


def tiny_model(architecture: dict[str, Any]) -> SpeakerModel:
    config = AutoConfig.for_model(**architecture)
    return SpeakerModel(AutoModel.from_config(config), tiny_settings(architecture))


@pytest.fixture
def head() -> SubcentreMarginHead:
    return SubcentreMarginHead(10, 4, AamSoftmaxSettings())


def rates_by_name(model: SpeakerModel, head: torch.nn.Module, factors: LrMultipliers) -> dict[str, float]:
    """Rate of every trained parameter at a schedule's rate of 1."""
    names = {
        id(p): name for name, p in torch.nn.ModuleDict({"model": model, "head": head}).named_parameters()
    }
    optimiser = make_optimiser(parameter_groups(model, head, factors), OptimiserSettings())
    set_learning_rate(optimiser, lambda multiplier: multiplier)
    rates = [(names[id(p)], group["lr"]) for group in optimiser.param_groups for p in group["params"]]
    assert len(rates) == len(dict(rates))
    return {name.removeprefix("model."): rate for name, rate in rates}


@pytest.mark.parametrize("model_type", ["wavlm", "hubert", "wav2vec2"])
@pytest.mark.parametrize("which", ["frozen", "blocks", "no_convolutions", "trained"])
def test_what_learns_is_what_was_chosen(model_type: str, which: Any, head: SubcentreMarginHead) -> None:
    model = tiny_model(TINY_WAVLM | {"model_type": model_type, "layerdrop": 0.0})
    choose_trained(model.frontend, which)
    model.train()
    model(torch.randn(4, 4000)).square().sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    frontend = {name for name in moved if name.startswith("frontend.")}
    assert moved - frontend
    learns = {
        name
        for name, _ in model.named_parameters()
        if name.startswith("frontend.") and name != "frontend.encoder.masked_spec_embed"
    }
    expected = {
        "frozen": set(),
        "blocks": {name for name in learns if name.startswith(BLOCKS)},
        "no_convolutions": {name for name in learns if not name.startswith(CONVOLUTIONS)},
        "trained": learns,
    }
    assert frontend == expected[which]
    assert rates_by_name(model, head, LrMultipliers()).keys() >= moved


def test_a_frozen_frontend_in_training_mode_keeps_no_graph() -> None:
    model = tiny_model(TINY_WAVLM)
    choose_trained(model.frontend, "frozen")
    model.train()
    assert not any(state.requires_grad for state in model.frontend(torch.randn(2, 4000)))


@pytest.mark.parametrize(
    ("block_decay_from", "below", "blocks"),
    [
        # Three blocks: from the top 0.5^2, 0.5, 1 and 0.5^3 below them; from the bottom 1, 0.5, 0.5^2.
        ("top", 0.125, [0.25, 0.5, 1.0]),
        ("bottom", 1.0, [1.0, 0.5, 0.25]),
    ],
)
def test_rates_follow_parts_and_blocks(
    block_decay_from: Any, below: float, blocks: list[float], head: SubcentreMarginHead
) -> None:
    model = tiny_model(TINY_LARGE)
    factors = LrMultipliers(
        head=4.0, backend=3.0, frontend=0.1, block_decay=0.5, block_decay_from=block_decay_from
    )
    rates = rates_by_name(model, head, factors)
    assert rates.keys() == {"head.weight", *dict(model.named_parameters())}
    for name, rate in rates.items():
        if name.startswith("head."):
            expected = 4.0
        elif not name.startswith("frontend."):
            expected = 3.0
        elif name.startswith(BLOCKS):
            expected = 0.1 * blocks[int(name.removeprefix(BLOCKS).split(".")[0])]
        elif name.startswith("frontend.encoder.encoder.layer_norm."):
            expected = 0.1 * blocks[2]  # of a Large encoder it comes after the blocks
        else:
            expected = 0.1 * below
        assert rate == pytest.approx(expected), name


def test_groups_are_named_and_those_that_do_not_learn_left_out(head: SubcentreMarginHead) -> None:
    model = tiny_model(TINY_WAVLM)
    assert [group["name"] for group in parameter_groups(model, head, LrMultipliers())] == [
        "head",
        "backend",
        "frontend",
        "block_00",
        "block_01",
        "block_02",
    ]
    choose_trained(model.frontend, "frozen")
    assert [g["name"] for g in parameter_groups(model, head, LrMultipliers())] == ["head", "backend"]


@pytest.mark.parametrize(
    ("settings", "after_two_steps"),
    [
        # From 1 with gradient 2, rate 0.1, decay 0.5; the gradients stay the same.
        # SGD, no momentum: g = 2 + 0.5 p. 1 - 0.25 = 0.75; 0.75 - 0.2375 = 0.5125.
        ({"kind": "sgd", "weight_decay": 0.5, "sgd": {"momentum": 0.0, "nesterov": False}}, 0.5125),
        # Nesterov 0.9, no decay: b1 = 2, step 2 + 0.9 x 2 = 3.8; b2 = 3.8, step 2 + 0.9 x 3.8 = 5.42.
        ({"kind": "sgd", "sgd": {"momentum": 0.9, "nesterov": True}}, 1 - 0.38 - 0.542),
        # AdamW: p x (1 - 0.1 x 0.5), then 0.1 along the sign: 0.95 - 0.1 = 0.85; 0.8075 - 0.1.
        ({"kind": "adamw", "weight_decay": 0.5}, 0.7075),
        # Adam: the decay goes into the gradient, whose sign alone counts at first: 1 - 0.1, then by hand
        # m = (0.9 x 2.5 + 2.45) x 0.1 / 0.19, v = (0.999 x 2.5^2 + 2.45^2) x 0.001 / 0.001999.
        ({"kind": "adam", "weight_decay": 0.5}, 0.9 - 0.1 * 2.4736842 / 2.4751256),
    ],
)
def test_every_kind_steps_by_its_rule(settings: dict[str, Any], after_two_steps: float) -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    groups = [{"name": "x", "params": [parameter], "lr_multiplier": 2.0}]
    optimiser = make_optimiser(groups, OptimiserSettings.parse({"weight_decay": 0.0} | settings, "optimiser"))
    for _ in range(2):
        parameter.grad = torch.tensor([2.0], dtype=torch.float64)
        set_learning_rate(optimiser, lambda multiplier: 0.05 * multiplier)
        optimiser.step()
    assert parameter.item() == pytest.approx(after_two_steps, abs=1e-6)


def test_gradients_are_scaled_where_there_are_any() -> None:
    with_gradient, without = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    with_gradient.grad = torch.full((3,), 5.0)
    scale_gradients([with_gradient, without], 0.1)
    assert with_gradient.grad.tolist() == pytest.approx([0.5] * 3)
    assert without.grad is None
