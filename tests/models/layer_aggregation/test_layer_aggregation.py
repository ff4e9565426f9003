from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.initialisation import xavier_initialise
from speaker_verification.models.layer_aggregation import (
    AdapterMfa,
    LayerAttentivePooling,
    WeightedSum,
    layer_pooling,
)
from speaker_verification.models.layer_aggregation.adapter_mfa import AdapterMfaSettings
from speaker_verification.models.layer_aggregation.base import AggregationSettings
from speaker_verification.models.layer_aggregation.lap import LapSettings
from speaker_verification.models.speaker_networks import PlainAttentiveStatisticsPooling
from speaker_verification.models.speaker_networks.asp import AspSettings
from tests.support.direct_way import DirectLap


def by_hand(module: LayerAttentivePooling, states: list[torch.Tensor]) -> np.ndarray:
    """LAP frame by frame and head by head in float64, from its formulas."""
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    stacked = np.stack([state.double().numpy() for state in states])  # (L+1, B, T, D)
    num_states, batch, frames, width = stacked.shape
    heads = module.num_heads
    depth = width // heads
    axes = (0, 1, 2)
    normed = (stacked - stacked.mean(axes)) / np.sqrt(stacked.var(axes) + 1e-5)
    normed = normed * weights["in_norm.weight"] + weights["in_norm.bias"]
    if heads > 1:
        normed = normed @ weights["in_projection.weight"].T + weights["in_projection.bias"]
    pooled = np.empty((batch, frames, width))
    for b in range(batch):
        for t in range(frames):
            for h in range(heads):
                head = normed[:, b, t, h * depth : (h + 1) * depth]  # (L+1, d)
                logits = np.zeros(num_states)
                for summary in (head.mean(axis=1), head.max(axis=1)):
                    hidden = np.maximum(
                        summary @ weights["squeeze_weight"][h] + weights["squeeze_bias"][h, 0], 0
                    )
                    logits += hidden @ weights["excite_weight"][h] + weights["excite_bias"][h, 0]
                pooled[b, t, h * depth : (h + 1) * depth] = (head * expit(logits)[:, None]).max(axis=0)
    out = pooled @ weights["out_projection.weight"].T + weights["out_projection.bias"]
    flat = out.reshape(-1, out.shape[-1])
    out = (out - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    return (out * weights["out_norm.weight"] + weights["out_norm.bias"]).transpose(0, 2, 1)


def lap_settings(output_width: int, num_heads: int, dropout: float) -> LapSettings:
    return LapSettings(output_width=output_width, num_heads=num_heads, dropout=dropout)


def drawn_lap(num_heads: int = 4, dropout: float = 0.0) -> LayerAttentivePooling:
    """Five states of eight channels, in float64, with weights that leave nothing near zero."""
    torch.manual_seed(7)
    module = LayerAttentivePooling(5, 8, lap_settings(6, num_heads, dropout)).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return module


@pytest.mark.parametrize("num_heads", [1, 4])
def test_lap_follows_its_formulas(num_heads: int) -> None:
    module = drawn_lap(num_heads)
    states = [torch.randn(3, 9, 8, dtype=torch.float64) for _ in range(5)]
    with torch.no_grad():
        out = module(states)
    assert out.shape == (3, 6, 9)
    np.testing.assert_allclose(out.numpy(), by_hand(module, states), rtol=1e-9, atol=1e-10)


def test_weights_of_lap_are_those_it_scales_the_states_with() -> None:
    torch.manual_seed(7)
    module = LayerAttentivePooling(5, 8, lap_settings(6, 4, 0.5)).double().eval()
    states = [torch.randn(3, 9, 8, dtype=torch.float64) for _ in range(5)]
    with torch.no_grad():
        weights = module.attention_weights(states)
        assert weights.shape == (3, 4, 9, 5)
        normed = torch.stack(states, dim=2) / math.sqrt(1 + 1e-5)  # fresh BatchNorm in evaluation mode
        heads = module.in_projection(normed).unflatten(3, (4, 2))  # (B, T, L+1, h, d)
        pooled = (heads * weights.permute(0, 2, 3, 1)[..., None]).amax(dim=2).flatten(2)
        expected = module.out_projection(pooled).transpose(1, 2) / math.sqrt(1 + 1e-5)
        torch.testing.assert_close(module(states), expected, rtol=1e-10, atol=1e-10)


def test_weighted_sum_follows_its_formula() -> None:
    states = [torch.full((2, 3, 4), float(value)) for value in (1, 10, 100)]
    module = WeightedSum(3, 2, AggregationSettings())
    torch.testing.assert_close(module(states), torch.full((2, 4, 3), 37.0))  # equal at the start
    module.logits.data = torch.tensor([0.0, math.log(2), math.log(5)])  # 1/8, 2/8, 5/8
    torch.testing.assert_close(module.attention_weights(states), torch.tensor([0.125, 0.25, 0.625]))
    torch.testing.assert_close(module(states), torch.full((2, 4, 3), (1 + 20 + 500) / 8))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ParameterError, match="num_heads' is 5: it must divide the encoder's width 8"):
        LayerAttentivePooling(5, 8, lap_settings(6, 5, 0.0))


def test_three_dimensional_weights_keep_torch_s_fans() -> None:
    """25 states, 16 heads: fans are 25 x 12 and 16 x 12 for squeeze, 12 x 25 and 16 x 25 for excite."""
    torch.manual_seed(0)
    module = LayerAttentivePooling(25, 64, lap_settings(32, 16, 0.1))
    xavier_initialise(module)
    for weight, fans in (
        (module.squeeze_weight, 25 * 12 + 16 * 12),
        (module.excite_weight, 12 * 25 + 16 * 25),
    ):
        bound = math.sqrt(6 / fans)
        assert bound * 0.99 < float(weight.detach().abs().max()) <= bound
    assert not module.squeeze_bias.any()
    assert not module.in_projection.bias.any()


def gradients(module: torch.nn.Module, lap: LayerAttentivePooling, states: list[Tensor]) -> list[Tensor]:
    output = module(states)
    slopes = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    learning = [*lap.parameters(), *(state for state in states if state.requires_grad)]
    wanted = torch.autograd.grad(output, learning, slopes, allow_unused=True)
    return [output.detach(), *(w for w in wanted if w is not None)]


@pytest.mark.parametrize("to_states", [False, True], ids=["frozen", "joint"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("block_frames", [1000, 10])
def test_lap_in_blocks_is_the_direct_formula_with_all_its_gradients(
    block_frames: int, training: bool, to_states: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layer_pooling.BLOCK_ELEMENTS, "cpu", block_frames * 5 * 8)
    lap = drawn_lap().train(training)
    reference = DirectLap(copy.deepcopy(lap))
    states = [torch.randn(3, 9, 8, dtype=torch.float64) + index for index in range(5)]
    for state in states:
        state.requires_grad_(to_states)
    ours, direct = gradients(lap, lap, states), gradients(reference, reference.lap, states)
    assert len(ours) == len(direct) == 1 + 12 + (5 if to_states else 0)
    largest = max(float(gradient.abs().max()) for gradient in direct)
    for own, expected in zip(ours, direct, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-12 * largest)
    for own, expected in zip(lap.buffers(), reference.lap.buffers(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_a_dropped_weight_drops_its_state_and_its_gradient() -> None:
    """As the direct formula does with the same weights dropped; one block, so both draw them alike."""
    lap = drawn_lap(dropout=0.5).train()
    reference = DirectLap(copy.deepcopy(lap))
    states = [torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    kept = (torch.rand(4, 27, 5, dtype=torch.float64) < 0.5).double() * 2  # (h, B*T, L+1)
    reference.lap.dropout = torch.nn.Module()  # type: ignore[assignment]
    reference.lap.dropout.forward = lambda weights: weights * kept.permute(1, 0, 2).unsqueeze(2)  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_pooling.functional, "dropout", lambda weights, _: weights * kept)
        ours = gradients(lap, lap, states)
    for own, expected in zip(ours, gradients(reference, reference.lap, states), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-9)


def test_lap_keeps_float32_accurate_where_means_dwarf_deviations() -> None:
    """Encoders have channels of a large constant offset, which would cancel in a norm folded whole."""
    lap = drawn_lap()
    reference = DirectLap(copy.deepcopy(lap))
    states = [(torch.randn(4, 25, 8) + 100).float() for _ in range(5)]
    with torch.no_grad():
        exact = reference([state.double() for state in states])
        rounded = lap.float()(states).double()
    assert float((rounded - exact).abs().max()) < 1e-5 * float(exact.abs().max())


def test_autocast_changes_lap_by_no_more_than_the_direct_formula() -> None:
    lap = drawn_lap().float()
    reference = DirectLap(copy.deepcopy(lap))
    states = [torch.randn(4, 25, 8) for _ in range(5)]
    exact = gradients(lap, lap, states)
    with torch.autocast("cpu", torch.bfloat16):
        ours, direct = gradients(lap, lap, states), gradients(reference, reference.lap, states)
    floor = 0.01 * max(float(expected.norm()) for expected in exact)  # under a norm: rounding
    for own, other, expected in zip(ours, direct, exact, strict=True):
        assert own.dtype == other.dtype
        error, allowed = (float((x.float() - expected).norm()) for x in (own, other))
        assert error < 1.5 * allowed + floor


def test_lap_keeps_little_beside_the_states_for_its_gradient() -> None:
    lap = LayerAttentivePooling(13, 32, lap_settings(16, 2, 0.1))
    states = [torch.randn(8, 50, 32) for _ in range(13)]
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    given = {tensor.untyped_storage().data_ptr() for tensor in [*states, *lap.parameters(), *lap.buffers()]}
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = lap(states)
    assert output.requires_grad
    beyond = sum(size for address, size in kept.items() if address not in given)
    assert 0 < beyond < 0.6 * sum(state.nbytes for state in states)


def test_adapter_mfa_follows_its_formulas() -> None:
    torch.manual_seed(3)
    settings = AdapterMfaSettings(adapter_width=3)
    module = AdapterMfa(2, 5, settings).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    states = [torch.randn(2, 4, 5, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad():
        out = module(states).numpy()
    assert out.shape == (2, settings.frame_width(2, 5), 4)
    for number, state in enumerate(states):
        w = {name: tensor.numpy() for name, tensor in module.adapters[number].state_dict().items()}
        hidden = state.numpy() @ w["0.weight"].T + w["0.bias"]
        normed = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
        rectified = np.maximum(normed * w["1.weight"] + w["1.bias"], 0)
        expected = rectified @ w["3.weight"].T + w["3.bias"]  # (B, T, A)
        np.testing.assert_allclose(
            out[:, 3 * number : 3 * number + 3], expected.transpose(0, 2, 1), rtol=1e-9
        )


def test_the_w2v_bert_system_has_as_many_parameters_behind_its_encoder_as_published() -> None:
    aggregation = AdapterMfa(25, 1024, AdapterMfaSettings())
    network = PlainAttentiveStatisticsPooling(aggregation_width := 25 * 128, AspSettings())
    assert AdapterMfaSettings().frame_width(25, 1024) == aggregation_width
    parameters = [*aggregation.parameters(), *network.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == 6_160_640
