"""SphereFace2 gives the loss, the predictions and the gradients of its formulas and of the public code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.heads.base import HeadOutput, Margins
from speaker_verification.models.heads.sphereface2 import SphereFace2, SphereFace2Settings

# Losses, predictions and gradients of wespeaker's SphereFace2 (models/projections.py) in float64, scale 32,
# weight 0.7, exponent 3.
PUBLIC: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "sphereface2.json").read_text()
)
MarginType = Literal["A", "C"]


def head_with(weight: Any, bias: float, **settings: Any) -> SphereFace2:
    centres = torch.as_tensor(weight, dtype=torch.float64)
    num_classes, embedding_size = centres.shape
    head = SphereFace2(embedding_size, num_classes, SphereFace2Settings(**settings)).double()
    with torch.no_grad():
        head.weight.copy_(centres)
        head.bias.fill_(bias)
    return head


def run(head: SphereFace2, embeddings: Any, labels: Any, margin: float) -> tuple[HeadOutput, torch.Tensor]:
    """Output of the head, and the gradient of the loss with respect to the embeddings."""
    given = torch.as_tensor(embeddings, dtype=torch.float64).requires_grad_()
    output = head(given, torch.as_tensor(labels), Margins(margin, 0, 0.0))
    output.loss.backward()
    assert given.grad is not None
    return output, given.grad


@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: f"{case['margin_type']}-{case['margin']}")
def test_numbers_are_those_of_the_public_code(case: dict[str, Any]) -> None:
    head = head_with(case["weight"], case["bias"], margin_type=case["margin_type"])
    output, gradient = run(head, case["embeddings"], case["labels"], case["margin"])
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-8)
    assert output.predictions.tolist() == case["predictions"]
    np.testing.assert_allclose(gradient, case["embedding_gradient"], rtol=1e-8, atol=1e-12)
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    np.testing.assert_allclose(head.weight.grad, case["weight_gradient"], rtol=1e-8, atol=1e-12)
    assert head.bias.grad.item() == pytest.approx(case["bias_gradient"], rel=1e-8)


def loss_by_hand(head: SphereFace2, embeddings: np.ndarray, labels: list[int], margin: float) -> float:
    """Equations 5 to 7 one pair at a time, on angles."""
    options = head.settings
    weight, bias = head.weight.detach().numpy(), head.bias.item()

    def stretched(cosine: float) -> float:
        return 2 * ((cosine + 1) / 2) ** options.exponent - 1

    total = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        for number, centre in enumerate(weight):
            cosine = embedding @ centre / np.linalg.norm(embedding) / np.linalg.norm(centre)
            angle = np.arccos(cosine)
            if options.margin_type == "C":
                positive, negative = stretched(cosine) - margin, stretched(cosine) + margin
            else:
                past = angle + margin >= np.pi
                positive = stretched(cosine - (1 - np.cos(margin)) if past else np.cos(angle + margin))
                negative = stretched(np.cos(angle - margin))
            if number == label:
                total += options.positive_weight * np.log1p(np.exp(-options.scale * positive - bias))
            else:
                total += (1 - options.positive_weight) * np.log1p(np.exp(options.scale * negative + bias))
    return total / len(labels)


@pytest.mark.parametrize("margin_type", ["A", "C"])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_loss_and_gradients_follow_the_formulas(margin_type: MarginType, margin: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, embeddings = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    labels = rng.integers(6, size=5).tolist()
    embeddings[0] = 0.1 * embeddings[0] - weight[labels[0]]  # its angle and a margin pass pi
    head = head_with(weight, 0.3, margin_type=margin_type, scale=8.0, positive_weight=0.6, exponent=2)
    output, gradient = run(head, embeddings, labels, margin)
    assert output.loss.item() == pytest.approx(loss_by_hand(head, embeddings, labels, margin), rel=1e-8)
    step = 1e-6
    for index in np.ndindex(embeddings.shape):
        ends = []
        for sign in (1, -1):
            moved = embeddings.copy()
            moved[index] += sign * step
            ends.append(loss_by_hand(head, moved, labels, margin))
        assert gradient[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_predictions_carry_the_target_s_margin() -> None:
    head = head_with([[1.0, 0.0], [0.0, 1.0]], 0.0)
    embedding = [[0.8, 0.6]]  # its cosines
    assert run(head, embedding, [0], 0.1)[0].predictions.tolist() == [0]
    assert run(head, embedding, [0], 0.3)[0].predictions.tolist() == [1]


def test_autocast_leaves_the_loss_in_float32() -> None:
    torch.manual_seed(0)
    head = SphereFace2(8, 4, SphereFace2Settings())
    embeddings, labels, margins = torch.randn(3, 8), torch.tensor([0, 1, 3]), Margins(0.2, 0, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(embeddings, labels, margins).loss
    assert inside.dtype == torch.float32
    assert inside == head(embeddings, labels, margins).loss


@pytest.mark.parametrize("margin_type", ["A", "C"])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_are_finite_where_an_embedding_is_a_centre(margin_type: MarginType, sign: int) -> None:
    head = head_with(np.eye(3), 0.0, margin_type=margin_type)
    _, gradient = run(head, sign * np.eye(3), [0, 1, 2], 0.2)
    assert gradient.isfinite().all()


def test_an_inter_top_k_penalty_is_refused_by_name() -> None:
    head = SphereFace2(8, 4, SphereFace2Settings())
    with pytest.raises(ParameterError, match="'top_k' is 5"):
        head(torch.randn(3, 8), torch.tensor([0, 1, 3]), Margins(0.2, 5, 0.1))
