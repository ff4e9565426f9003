"""Hard-concrete gates: their distribution, what they expect to be removed, and their place in an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.wav2vec2_family import Wav2Vec2Adapter
from speaker_verification.models.pruning import GateSettings, PruningGates, cut, sparsity_of
from speaker_verification.models.pruning.gates import weighted_norm
from tests.support.pruning import model_of, states_of

# In every of three blocks of width 16: 4 heads, each with 4 rows of three projections with biases, 4 columns
# of the output and a constant, 4 * (3 * (16 + 1) + 16) + 1 = 269; and 32 units of 16 + 1 + 16.
NUM_HEADS, NUM_UNITS, HEAD, UNIT = 4, 32, 269, 33
BLOCK = NUM_HEADS + NUM_UNITS


def gates_of(**settings: object) -> PruningGates:
    return PruningGates(model_of("WavLM").frontend.adapter, GateSettings.parse(settings, "gates"))


def set_log_alpha(gates: PruningGates, heads: list[float], units: list[float]) -> None:
    """The same log alpha in every block."""
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor([*heads, *units] * 3))


@pytest.mark.parametrize(
    ("log_alpha", "settings", "closed", "opened"),
    [
        # 1 / (1 + 11^(2/3)) on both sides
        (0.0, {}, 0.16818, 0.16818),
        # 1 / (1 + e 11^(2/3)), 1 / (1 + 11^(2/3) / e)
        (1.0, {}, 0.06923, 0.35466),
        # 1 / (1 + e^-2 6^(1/2)), 1 / (1 + e^2 6^(1/2))
        (-2.0, {"temperature": 0.5, "stretch": (-0.2, 1.2)}, 0.75103, 0.05236),
    ],
)
def test_gates_are_closed_and_open_as_often_as_their_distribution_says(
    log_alpha: float, settings: dict[str, object], closed: float, opened: float
) -> None:
    gates = gates_of(**settings)
    set_log_alpha(gates, [log_alpha] * NUM_HEADS, [log_alpha] * NUM_UNITS)
    torch.manual_seed(5)
    samples = []
    with torch.no_grad():
        for _ in range(2000):
            gates.draw()
            assert gates.values is not None
            samples += gates.values
    values = torch.cat(samples).numpy()  # 216,000
    assert (values == 0).mean() == pytest.approx(closed, abs=0.004)
    assert (values == 1).mean() == pytest.approx(opened, abs=0.004)
    temperature, (low, high) = gates.settings.temperature, gates.settings.stretch
    t = np.linspace(0, 1, 100_001)[:-1] + 5e-6
    above = 1 / (1 + np.exp(temperature * np.log((t - low) / (high - t)) - log_alpha))  # P(gate > t)
    assert values.mean() == pytest.approx(above.mean(), abs=0.004)
    assert np.square(values).mean() == pytest.approx((2 * t * above).mean(), abs=0.004)


def test_gates_begin_around_their_initial_drop() -> None:
    gates = gates_of(initial_drop={"attention_heads": 0.2})
    heads, units = gates.log_alpha.detach().view(3, BLOCK).split([NUM_HEADS, NUM_UNITS], dim=1)
    assert heads.mean().item() == pytest.approx(1.386, abs=0.01)  # log(0.8 / 0.2)
    assert units.mean().item() == pytest.approx(0.0, abs=0.005)
    assert units.std().item() == pytest.approx(0.01, abs=0.002)


def test_the_expected_sparsity_is_a_share_of_all_parameters_of_the_encoder() -> None:
    gates = gates_of()
    set_log_alpha(gates, [0.0, 100.0, 100.0, -100.0], [1.0] * 16 + [100.0] * 16)
    whole = sum(parameter.numel() for parameter in model_of("WavLM").frontend.encoder.parameters())
    # closed: 0.16818 of a head and one more; 0.06923 of 16 units
    expected = 3 * (1.1681778 * HEAD + 16 * 0.0692288 * UNIT) / whole
    sparsity = gates.expected_sparsity()
    assert sparsity.item() == pytest.approx(expected, rel=1e-5)
    sparsity.backward()
    assert gates.log_alpha.grad is not None
    # d/da of the probability p to be closed is -p (1 - p)
    assert gates.log_alpha.grad[0].item() == pytest.approx(-0.1681778 * 0.8318222 * HEAD / whole, rel=1e-5)
    assert gates.log_alpha.grad[4].item() == pytest.approx(-0.0692288 * 0.9307712 * UNIT / whole, rel=1e-5)


def test_the_least_gates_of_a_module_are_removed_as_many_as_expected() -> None:
    gates = gates_of()
    # closed with 1 / (1 + e^a 11^(2/3)): 0.599, 0.037, 0.119, 0.993: 1.75 of 4 heads
    # of the units 20 surely, and 12 times 0.168: 2.02 more, the first among equals
    set_log_alpha(gates, [-2.0, 1.66, 0.4, -6.6], [-50.0] * 20 + [0.0] * 12)
    kept = gates.kept_units()
    assert kept.attention_heads == ((1, 2),) * 3
    assert kept.feed_forward == ((tuple(range(22, 32)),),) * 3
    assert kept.convolution == ()


@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.31])
def test_a_given_sparsity_is_met_to_half_of_a_head(sparsity: float) -> None:
    gates = gates_of()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        gates.log_alpha.copy_(5 + 3 * torch.randn(gates.log_alpha.shape, generator=generator))
    model = model_of("WavLM")
    whole = model.frontend.encoder.num_parameters()
    assert gates.expected_sparsity().item() < 0.04
    kept = gates.kept_units(sparsity)
    for block, (heads, (units,)) in enumerate(zip(kept.attention_heads, kept.feed_forward, strict=True)):
        locations = gates.log_alpha.detach().view(3, BLOCK)[block].split([NUM_HEADS, NUM_UNITS])
        for places, staying in zip(locations, (heads, units), strict=True):
            assert {*staying} == {*places.argsort(descending=True)[: len(staying)].tolist()}
    cut(model, kept)
    assert sparsity_of(model) == pytest.approx(sparsity, abs=HEAD / 2 / whole)


def test_a_sparsity_beyond_all_gates_removes_every_unit() -> None:
    kept = gates_of().kept_units(1.0)
    assert kept.attention_heads == ((),) * 3
    assert kept.feed_forward == (((),),) * 3


def test_units_without_gates_all_stay() -> None:
    gates = gates_of(units=["attention_heads"])
    with torch.no_grad():
        gates.log_alpha.fill_(-100.0)
    kept = gates.kept_units()
    assert kept.attention_heads == ((),) * 3
    assert kept.feed_forward == ((tuple(range(NUM_UNITS)),),) * 3


def test_gates_learn_through_the_encoder_and_add_nothing_to_it() -> None:
    model = model_of("W2V-BERT")
    names = list(model.state_dict())
    gates = PruningGates(model.frontend.adapter, GateSettings())
    waveforms = 0.1 * torch.randn(2, 6000)
    unpruned = states_of(model, waveforms)
    assert list(model.state_dict()) == names
    with torch.no_grad():
        gates.log_alpha.fill_(0.0)
    torch.manual_seed(3)
    gates.draw()
    drawn = states_of(model, waveforms)
    assert (drawn[-1] - unpruned[-1]).abs().max() > 1e-4
    torch.testing.assert_close(states_of(model, waveforms), drawn, rtol=0, atol=0)  # until the next draw
    torch.manual_seed(3)
    gates.draw()
    torch.testing.assert_close(states_of(model, waveforms), drawn, rtol=0, atol=0)
    model(waveforms).square().sum().backward()
    assert gates.log_alpha.grad is not None
    gradients = gates.log_alpha.grad.split([group.num_units for group in gates.groups])
    assert all(gradient.count_nonzero() for gradient in gradients)


def test_the_recomputation_of_blocks_sees_the_same_gates() -> None:
    gradients = []
    for checkpoint_activations in (False, True):
        model = model_of("WavLM", checkpoint_activations=checkpoint_activations)
        torch.manual_seed(4)
        gates = PruningGates(model.frontend.adapter, GateSettings())
        gates.draw()
        model.train()
        torch.manual_seed(4)
        model(0.1 * torch.randn(2, 6000)).square().sum().backward()
        assert gates.log_alpha.grad is not None
        gradients.append(gates.log_alpha.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_a_norm_over_units_counts_the_open_ones_alone() -> None:
    torch.manual_seed(6)
    norm, x = nn.LayerNorm(5).double(), torch.randn(2, 3, 5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    open_units = [0, 2, 3]
    weights = torch.zeros(5).double()
    weights[open_units] = 1
    alone = nn.functional.layer_norm(x[..., open_units], (3,), norm.weight[open_units], norm.bias[open_units])
    torch.testing.assert_close(weighted_norm(norm, x, weights)[..., open_units], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(weighted_norm(norm, x, torch.ones(5)), norm(x), rtol=0, atol=1e-12)
    assert weighted_norm(norm, x, torch.zeros(5)).isfinite().all()


def test_gates_that_the_original_attention_of_wavlm_would_not_see_are_refused() -> None:
    model = model_of("WavLM", attention="original")
    with pytest.raises(ParameterError, match=r"model\.frontend\.attention' is 'original'.*sdpa"):
        PruningGates(model.frontend.adapter, GateSettings())


def test_an_adapter_that_names_no_units_is_refused() -> None:
    class Unknown(Wav2Vec2Adapter):
        units_of = EncoderAdapter.units_of

    with pytest.raises(ParameterError, match=r"\(hubert\) cannot be pruned: its adapter Unknown"):
        PruningGates(Unknown(model_of("HuBERT").frontend.encoder), GateSettings())


@pytest.mark.parametrize("stretch", [(0.0, 1.1), (-0.1, 1.0), (-0.1,)])
def test_an_interval_that_never_closes_or_opens_a_gate_is_refused(stretch: tuple[float, ...]) -> None:
    with pytest.raises(ParameterError, match="stretch"):
        GateSettings.parse({"stretch": stretch}, "gates")
