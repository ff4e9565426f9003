from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve
from scipy.special import expit, softmax

from speaker_verification.models.speaker_networks import (
    AttentiveStatisticsPooling,
    EcapaTdnn,
    MultiHeadFactorisedAttentivePooling,
    PlainAttentiveStatisticsPooling,
    SpeakerNetwork,
    XVector,
)
from speaker_verification.models.speaker_networks.asp import AspSettings
from speaker_verification.models.speaker_networks.astp import AstpSettings
from speaker_verification.models.speaker_networks.ecapa_tdnn import EcapaTdnnSettings
from speaker_verification.models.speaker_networks.mhfa import MhfaSettings
from speaker_verification.models.speaker_networks.x_vector import XVectorSettings

Weights = dict[str, np.ndarray]


def randomised(module: SpeakerNetwork) -> tuple[SpeakerNetwork, Weights]:
    """The module in float64 and evaluation mode, no weight or statistic left at its default."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in module.double().state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.5, generator=generator)
    return module.eval(), {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def convolved(x: np.ndarray, weights: Weights, name: str, dilation: int = 1, padding: int = 0) -> np.ndarray:
    """(C, T) -> (C', T'): every kernel as a filter with holes, turned round as networks mean it."""
    kernels, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    size = kernels.shape[2]
    holed = np.zeros((*kernels.shape[:2], (size - 1) * dilation + 1))
    holed[:, :, ::dilation] = kernels[:, :, ::-1]
    padded = np.pad(x, ((0, 0), (padding, padding)))
    return np.stack(
        [
            sum(convolve(row, kernel, mode="valid") for row, kernel in zip(padded, group, strict=True))
            + shift
            for group, shift in zip(holed, bias, strict=True)
        ]
    )


def normed(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    mean, variance, gain, shift = (
        weights[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 1))
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * gain + shift


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def tdnn(x: np.ndarray, weights: Weights, name: str, dilation: int = 1, padding: int = 0) -> np.ndarray:
    return normed(np.maximum(convolved(x, weights, f"{name}.0", dilation, padding), 0), weights, f"{name}.2")


def beside_statistics(x: np.ndarray, added: float) -> np.ndarray:
    """Every frame beside mean and unbiased deviation of all."""
    frames = x.shape[1]
    deviation = np.sqrt(x.var(axis=1, ddof=1) + added)
    return np.concatenate([x, np.tile(x.mean(axis=1)[:, None], frames), np.tile(deviation[:, None], frames)])


def weighted(x: np.ndarray, attention: np.ndarray, floor: float) -> np.ndarray:
    mean = (attention * x).sum(axis=1)
    variance = (attention * (x - mean[:, None]) ** 2).sum(axis=1)
    return np.concatenate([mean, np.sqrt(np.maximum(variance, floor))])


def astp_by_hand(x: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(convolved(beside_statistics(x, 0), w, "attention.0"), 0)
    attention = softmax(convolved(normed(hidden, w, "attention.2"), w, "attention.3"), axis=1)
    pooled = normed(weighted(x, attention, 1e-4), w, "pooled_norm")
    return normed(linear(pooled, w, "projection"), w, "embedding_norm"), attention


def asp_by_hand(x: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    hidden = normed(np.maximum(convolved(x, w, "attention.0"), 0), w, "attention.2")
    attention = softmax(convolved(hidden, w, "attention.3"), axis=1)
    return linear(weighted(x, attention, 1e-5), w, "projection"), attention


def x_vector_by_hand(x: np.ndarray, w: Weights) -> np.ndarray:
    for index, (dilation, padding) in enumerate([(1, 2), (2, 1), (3, 1), (1, 0), (1, 0)]):
        x = tdnn(x, w, f"layers.{index}", dilation, padding)
    return linear(np.concatenate([x.mean(axis=1), np.sqrt(x.var(axis=1, ddof=1) + 1e-7)]), w, "projection")


def ecapa_by_hand(x: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    x = tdnn(x, w, "input_layer", padding=2)
    outputs = []
    for index, dilation in enumerate((2, 3, 4)):
        block = f"blocks.{index}"
        hidden = tdnn(x, w, f"{block}.convolutions.0")
        parts = np.split(hidden, 8)
        for number in range(7):
            summed = parts[number] + (parts[number - 1] if number else 0)
            parts[number] = tdnn(
                summed, w, f"{block}.convolutions.1.layers.{number}", dilation, padding=dilation
            )
        hidden = tdnn(np.concatenate(parts), w, f"{block}.convolutions.2")
        squeezed = np.maximum(linear(hidden.mean(axis=1), w, f"{block}.gate.0"), 0)
        x = x + hidden * expit(linear(squeezed, w, f"{block}.gate.2"))[:, None]
        outputs.append(x)
    x = np.maximum(convolved(np.concatenate(outputs), w, "aggregation"), 0)
    logits = convolved(np.tanh(convolved(beside_statistics(x, 1e-7), w, "attention.0")), w, "attention.2")
    attention = softmax(logits, axis=1)
    return linear(normed(weighted(x, attention, 1e-7), w, "pooled_norm"), w, "projection"), attention


def mhfa_by_hand(key: np.ndarray, value: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    keys = np.stack([linear(frame, w, "key_projection") for frame in key.T])
    values = np.stack([linear(frame, w, "value_projection") for frame in value.T])
    queries = w["head_logits.weight"]  # (h, c), or (h, c, R+1) with context
    if queries.ndim == 2:
        logits = np.stack([linear(frame, w, "head_logits") for frame in keys])  # (T, h)
    else:
        padded = np.pad(keys, ((queries.shape[2] // 2,) * 2, (0, 0)))
        around = [padded[place : place + queries.shape[2]] for place in range(len(keys))]
        logits = np.array([[(query * frames.T).sum() for query in queries] for frames in around])
    attention = softmax(logits, axis=0).T  # (h, T)
    pooled = [sum(weight * frame for weight, frame in zip(head, values, strict=True)) for head in attention]
    return linear(np.concatenate(pooled), w, "projection"), attention


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randn(2, 6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("module", "by_hand"),
    [
        (AttentiveStatisticsPooling(6, AstpSettings(embedding_size=4, dropout=0.3)), astp_by_hand),
        (PlainAttentiveStatisticsPooling(6, AspSettings(embedding_size=4, attention_width=5)), asp_by_hand),
        (
            EcapaTdnn(
                6, EcapaTdnnSettings(embedding_size=4, channels=16, pooled_channels=7, bottleneck_channels=3)
            ),
            ecapa_by_hand,
        ),
    ],
    ids=["astp", "asp", "ecapa_tdnn"],
)
def test_attentive_statistics_follow_their_formulas(module, by_hand, frames: torch.Tensor) -> None:
    module, weights = randomised(module)
    with torch.no_grad():
        embeddings, attention = module(frames).numpy(), module.attention_weights(frames).numpy()
    for row, x in enumerate(frames.numpy()):
        embedding, weighing = by_hand(x, weights)
        np.testing.assert_allclose(embeddings[row], embedding, rtol=1e-9)
        np.testing.assert_allclose(attention[row], weighing, rtol=1e-9)


def test_x_vector_follows_its_formulas(frames: torch.Tensor) -> None:
    module, weights = randomised(XVector(6, XVectorSettings(embedding_size=4, channels=5, pooled_channels=9)))
    assert module.layers(frames).shape == (2, 9, 5)  # T - 6
    with torch.no_grad():
        embeddings = module(frames)
        loss_inputs = module.loss_input(embeddings).numpy()
    for row, x in enumerate(frames.numpy()):
        embedding = x_vector_by_hand(x, weights)
        np.testing.assert_allclose(embeddings[row], embedding, rtol=1e-9)
        wanted = linear(np.maximum(embedding, 0), weights, "loss_projection")
        np.testing.assert_allclose(loss_inputs[row], wanted, rtol=1e-9)
    assert module.attention_weights(frames) is None


@pytest.mark.parametrize("context", [0, 4])
def test_mhfa_follows_its_formulas(frames: torch.Tensor, context: int) -> None:
    settings = MhfaSettings(embedding_size=4, num_heads=3, compressed_width=5, context=context)
    module, weights = randomised(MultiHeadFactorisedAttentivePooling(6, settings))
    other = frames.flip(2) * 0.7
    with torch.no_grad():
        embeddings, attention = module(frames, other).numpy(), module.attention_weights(frames, other).numpy()
    for row, (key, value) in enumerate(zip(frames.numpy(), other.numpy(), strict=True)):
        embedding, weighing = mhfa_by_hand(key, value, weights)
        np.testing.assert_allclose(embeddings[row], embedding, rtol=1e-9)
        np.testing.assert_allclose(attention[row], weighing, rtol=1e-9)


@pytest.fixture(
    params=[
        (AttentiveStatisticsPooling, AstpSettings(embedding_size=3, dropout=0.0)),
        (XVector, XVectorSettings(embedding_size=3, channels=5, pooled_channels=6)),
        (
            EcapaTdnn,
            EcapaTdnnSettings(embedding_size=3, channels=8, pooled_channels=6, bottleneck_channels=3),
        ),
        (
            MultiHeadFactorisedAttentivePooling,
            MhfaSettings(embedding_size=3, num_heads=2, compressed_width=5),
        ),
        (
            MultiHeadFactorisedAttentivePooling,
            MhfaSettings(embedding_size=3, num_heads=2, compressed_width=5, context=4),
        ),
        (PlainAttentiveStatisticsPooling, AspSettings(embedding_size=3, attention_width=5)),
    ],
    ids=["astp", "x_vector", "ecapa_tdnn", "mhfa", "ca_mhfa", "asp"],
)
def network(request: pytest.FixtureRequest) -> SpeakerNetwork:
    """A network over frames of width 4."""
    kind, settings = request.param
    return kind(4, settings)


def test_constant_frames_keep_a_finite_gradient(network: SpeakerNetwork) -> None:
    x = torch.randn(3, 4, 1).expand(3, 4, 12).clone().requires_grad_()
    network(*[x] * len(network.inputs)).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.filterwarnings("ignore:var")
def test_minimum_frames_are_just_enough(network: SpeakerNetwork) -> None:
    def embedding(num_frames: int) -> torch.Tensor:
        x = torch.randn(2, 4, num_frames, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return network.eval()(*[x] * len(network.inputs))

    assert embedding(network.minimum_frames).isfinite().all()
    if network.minimum_frames > 1:
        assert not embedding(network.minimum_frames - 1).isfinite().all()


def test_frames_are_left_out_in_training_only() -> None:
    torch.manual_seed(0)
    module = AttentiveStatisticsPooling(4, AstpSettings(embedding_size=3, dropout=0.9))
    x = torch.randn(6, 4, 7)
    module.eval()
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))
