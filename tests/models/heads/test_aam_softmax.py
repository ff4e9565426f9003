from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.heads.base import Margins
from tests.support.direct_way import DirectHead


def head_with(
    weight: torch.Tensor, scale: float = 30.0, fallback: Literal["arcface", "wespeaker"] = "arcface"
) -> SubcentreMarginHead:
    subcentres, embedding_size, num_classes = weight.shape
    settings = AamSoftmaxSettings(num_subcentres=subcentres, scale=scale, fallback=fallback)
    head = SubcentreMarginHead(embedding_size, num_classes, settings).to(weight.dtype)
    head.weight.data.copy_(weight)
    return head


def by_hand(
    weight: np.ndarray, embeddings: np.ndarray, labels: np.ndarray, margins: Margins, scale: float
) -> tuple[float, list[int]]:
    losses, predictions = [], []
    for embedding, label in zip(embeddings, labels, strict=True):
        embedding = embedding / np.linalg.norm(embedding)
        centres = weight / np.linalg.norm(weight, axis=1, keepdims=True)
        cosine = np.array([(embedding @ centres[:, :, c].T).max() for c in range(weight.shape[2])])
        logits = cosine.copy()
        theta = np.arccos(np.clip(cosine[label], -1, 1))
        if theta + margins.target < math.pi:
            logits[label] = np.cos(theta + margins.target)
        else:
            logits[label] = cosine[label] - margins.target * math.sin(math.pi - margins.target)
        predictions.append(int(logits.argmax()))
        others = [c for c in range(len(cosine)) if c != label]
        for c in sorted(others, key=lambda other: -cosine[other])[: margins.top_k]:
            logits[c] = np.cos(np.arccos(cosine[c]) - margins.top_k_penalty)
        logits *= scale
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return float(np.mean(losses)), predictions


@pytest.mark.parametrize(
    "margins",
    [Margins(0.3, 5, 0.06), Margins(0.5, 0, 0.0), Margins(0.0, 2, 0.0), Margins(2.5, 3, 0.1)],
    ids=str,
)
@pytest.mark.parametrize("subcentres", [1, 3])
def test_loss_and_predictions_follow_the_formulas(margins: Margins, subcentres: int) -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(subcentres, 6, 9, generator=generator, dtype=torch.float64)
    embeddings = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(20) % 9
    output = head_with(weight, scale=12)(embeddings, labels, margins)
    loss, predictions = by_hand(weight.numpy(), embeddings.numpy(), labels.numpy(), margins, 12)
    assert float(output.loss.detach()) == pytest.approx(loss, rel=1e-9)
    assert output.predictions.tolist() == predictions


def test_embeddings_on_a_centre_give_finite_gradients() -> None:
    """In float32 a fifth of self-cosines pass one: an unguarded root of 1 - cos² is then NaN."""
    weight = torch.randn(1, 192, 64, generator=torch.Generator().manual_seed(0))
    embeddings = weight[0].T.clone().requires_grad_()
    head = head_with(weight)
    head(embeddings, torch.arange(64), Margins(0.3, 5, 0.06)).loss.backward()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_the_head_stays_in_float32_under_autocast() -> None:
    weight = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    embeddings = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    head = head_with(weight)
    labels, margins = torch.arange(4), Margins(0.3, 2, 0.06)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(embeddings, labels, margins).loss
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(embeddings, labels, margins).loss)


def test_top_k_must_leave_a_class() -> None:
    head = head_with(torch.randn(1, 4, 5))
    with pytest.raises(ParameterError, match="'top_k' is 5: it must be below the 5 classes"):
        head(torch.randn(2, 4), torch.tensor([0, 1]), Margins(0.3, 5, 0.06))


def test_normal_class_weights_take_the_fans_of_each_centre() -> None:
    torch.manual_seed(0)
    settings = AamSoftmaxSettings(num_subcentres=2, initialisation="xavier_normal")
    weight = SubcentreMarginHead(192, 300, settings).weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (192 + 300)), rel=0.01)
    assert float(weight.abs().max()) > 3.5 * math.sqrt(2 / (192 + 300))


def test_class_weights_keep_torch_s_fans() -> None:
    head = SubcentreMarginHead(192, 300, AamSoftmaxSettings())
    bound = math.sqrt(6 / ((192 + 3) * 300))
    assert bound * 0.99 < float(head.weight.detach().abs().max()) <= bound


def test_unit_class_weights_are_even_and_of_norm_one_over_the_classes() -> None:
    """Of 192 dimensions each has norm 1 over 300 classes: values are even up to the root of 3 / 300."""
    torch.manual_seed(0)
    settings = AamSoftmaxSettings(num_subcentres=2, initialisation="unit")
    weight = SubcentreMarginHead(192, 300, settings).weight.detach()
    assert weight.norm(dim=2).flatten().tolist() == pytest.approx([1.0] * 2 * 192)
    assert float(weight.norm(dim=1).mean()) == pytest.approx(math.sqrt(192 / 300), rel=0.01)
    assert float(weight.abs().max()) == pytest.approx(math.sqrt(3 / 300), rel=0.15)


def test_plain_aam_adds_the_margin_to_the_target_s_angle_alone() -> None:
    """Classes at angles of 1.0, 1.2 and 1.5: with a margin of 0.2 the first is as far as the second."""
    angles = torch.tensor([1.0, 1.2, -1.5], dtype=torch.float64)
    weight = 3 * torch.stack([angles.cos(), angles.sin()])[None]  # (K, E, C)
    output = head_with(weight, 32.0)(
        torch.tensor([[5.0, 0.0]], dtype=torch.float64), torch.tensor([0]), Margins(0.2, 0, 0.0)
    )
    # log(2 + exp(32 (0.0707372017 - 0.3623577545)))
    assert float(output.loss.detach()) == pytest.approx(0.69319146, abs=1e-8)


def test_past_pi_the_target_s_logit_follows_either_fallback() -> None:
    """Two classes at -1 and 0: by hand, the target at theta = pi with a margin of 0.5."""
    weight = torch.tensor([[[-1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    embedding, label = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    logits = {
        "arcface": -1 - 0.5 * math.sin(math.pi - 0.5),  # -1.2397
        "wespeaker": -1 - (1 + math.cos(math.pi - 0.5)),  # -1.1224
    }
    for fallback, target in logits.items():
        output = head_with(weight, 2.0, fallback)(embedding, label, Margins(0.5, 0, 0.0))
        expected = math.log(math.exp(2 * target) + 1) - 2 * target
        assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-9)


def test_loss_and_gradients_are_those_of_centres_scaled_to_length_one() -> None:
    torch.manual_seed(0)
    heads = [kind(6, 8, AamSoftmaxSettings()).double() for kind in (SubcentreMarginHead, DirectHead)]
    heads[1].load_state_dict(heads[0].state_dict())
    labels, results = torch.tensor([0, 3, 7, 3]), []
    for head in heads:
        torch.manual_seed(1)
        embeddings = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
        loss = head(embeddings, labels, Margins(0.3, 2, 0.06)).loss
        results.append([loss.detach(), *torch.autograd.grad(loss, [embeddings, head.weight])])
    for own, direct in zip(*results, strict=True):
        torch.testing.assert_close(own, direct, rtol=1e-12, atol=1e-14)
