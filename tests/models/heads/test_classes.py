"""Single classes of a head are kept by their place, or turned towards embeddings, and no other changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from speaker_verification.models.heads import HeadSettings, build_head
from speaker_verification.models.heads.base import Head, Margins
from speaker_verification.models.heads.classes import keep_classes, turn_classes
from tests.support.processes import run_processes, values_of

WIDTH = 4
AAM: dict[str, Any] = {"aam_softmax": {"num_subcentres": 3}}
SPHEREFACE2: dict[str, Any] = {"kind": "sphereface2"}
# Of lengths 5 and 13.
DIRECTIONS = torch.tensor([[0.0, 3.0, 4.0, 0.0], [5.0, 0.0, 0.0, -12.0]])
TURNED = torch.tensor([[0.0, 0.6, 0.8, 0.0], [5 / 13, 0.0, 0.0, -12 / 13]])


def head_of(settings: dict[str, Any], num_classes: int, seed: int = 1) -> Head:
    torch.manual_seed(seed)
    head = build_head(HeadSettings.parse(settings, "head"), WIDTH, num_classes)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def centres(head: Head) -> Tensor:
    """Centres (C, K, E) of all classes."""
    weight = head.state_dict()["weight"]
    return weight.permute(2, 0, 1).clone() if weight.dim() == 3 else weight[:, None].clone()


@pytest.mark.parametrize("settings", [AAM, SPHEREFACE2], ids=["AAM", "SphereFace2"])
def test_classes_are_kept_by_their_places(settings: dict[str, Any]) -> None:
    head, trained = head_of(settings, 4, seed=1), head_of(settings, 3, seed=2)
    drawn, before = centres(head), centres(trained)
    keep_classes(head, trained, {0: 2, 3: 1})
    kept = centres(head)
    assert torch.equal(kept[[0, 3]], before[[2, 1]])
    assert torch.equal(kept[[1, 2]], drawn[[1, 2]])
    for name, value in trained.state_dict().items():
        if name != "weight":  # SphereFace2's bias, which all classes share
            assert torch.equal(head.state_dict()[name], value)


@pytest.mark.parametrize(
    "settings",
    [{"aam_softmax": {"num_subcentres": 1}}, SPHEREFACE2],
    ids=["AAM of one centre", "SphereFace2"],
)
def test_a_single_centre_is_turned_exactly_and_keeps_its_length(settings: dict[str, Any]) -> None:
    head = head_of(settings, 4)
    drawn = centres(head)
    turn_classes(head, torch.tensor([3, 1]), DIRECTIONS)
    turned = centres(head)
    lengths = torch.linalg.vector_norm(drawn[[3, 1]], dim=-1, keepdim=True)
    torch.testing.assert_close(turned[[3, 1]], lengths * TURNED[:, None])
    assert torch.equal(turned[[0, 2]], drawn[[0, 2]])


def test_sub_centres_lie_round_the_direction_and_learn_apart() -> None:
    """At a distance of a tenth from a unit vector, a cosine of at least 1 / sqrt(1.01) by the far side."""
    head = head_of(AAM, 4)
    drawn = centres(head)
    turn_classes(head, torch.tensor([3, 1]), DIRECTIONS)
    turned = centres(head)[[3, 1]]
    lengths = torch.linalg.vector_norm(drawn[[3, 1]], dim=-1)
    torch.testing.assert_close(torch.linalg.vector_norm(turned, dim=-1), lengths)
    expected = TURNED[:, None] + 0.1 * drawn[[3, 1]] / lengths[..., None]
    cosines = torch.cosine_similarity(turned, expected, dim=-1)
    torch.testing.assert_close(cosines, torch.ones(2, 3))
    assert torch.cosine_similarity(turned, TURNED[:, None].expand_as(turned), dim=-1).min() > 0.994
    head(DIRECTIONS, torch.tensor([3, 1]), Margins(0.2, 0, 0.0)).loss.backward()
    assert isinstance(head.weight, torch.nn.Parameter)
    assert head.weight.grad is not None
    learning = head.weight.grad.abs().sum(dim=1)[:, [3, 1]] > 0  # (K, 2)
    assert learning.sum(dim=0).tolist() == [1, 1]


def turned_in_shards(settings: dict[str, Any]) -> Tensor:
    head = head_of(settings, 5)
    head.distribute(sharded=True, classes_per_chunk=2)
    turn_classes(head, torch.tensor([3, 1]), DIRECTIONS)
    return centres(head)


@pytest.mark.project
@pytest.mark.parametrize("settings", [AAM, SPHEREFACE2], ids=["AAM", "SphereFace2"])
def test_a_sharded_head_turns_as_the_whole_one(settings: dict[str, Any]) -> None:
    head = head_of(settings, 5)
    turn_classes(head, torch.tensor([3, 1]), DIRECTIONS)
    for found in values_of(run_processes(2, turned_in_shards, settings)):
        assert torch.equal(found, centres(head))
