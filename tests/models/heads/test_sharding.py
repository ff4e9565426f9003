"""Heads in chunks of classes, and with their classes shared out over processes, are the whole head."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from speaker_verification.common.distributed import processes
from speaker_verification.common.errors import ParameterError
from speaker_verification.models.heads import HeadSettings, build_head
from speaker_verification.models.heads.base import Head, Margins
from speaker_verification.models.heads.sharding import ShardableHead
from tests.support.processes import run_processes, values_of

BATCH, WIDTH, NUM_CLASSES = 12, 6, 23  # classes that neither 2 nor 3 processes share evenly
TOP_K = 5
LABELS = torch.arange(BATCH) * 9 % NUM_CLASSES
HEADS: dict[str, dict[str, Any]] = {
    "one centre": {"aam_softmax": {"num_subcentres": 1, "scale": 12}},
    "three centres": {"aam_softmax": {"scale": 12, "fallback": "wespeaker"}},
    "SphereFace2, A": {"kind": "sphereface2", "sphereface2": {"margin_type": "A", "scale": 8}},
    "SphereFace2, C": {"kind": "sphereface2", "sphereface2": {"margin_type": "C", "scale": 8}},
}
# The second one passes pi for most angles.
MARGINS = [Margins(0.3, TOP_K, 0.06), Margins(2.5, TOP_K, 0.3), Margins(0.2, 0, 0.0)]


def head_of(name: str, num_classes: int = NUM_CLASSES) -> ShardableHead:
    torch.manual_seed(1)
    head = build_head(HeadSettings.parse(HEADS[name], "head"), WIDTH, num_classes)
    assert isinstance(head, ShardableHead)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head.double()


def embeddings() -> Tensor:
    return torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def results(head: Head, margins: Margins) -> dict[str, Tensor]:
    """Loss, predictions and gradients of the batch, of which each process has its share, put together."""
    group = processes()
    own = group.share(BATCH, "batch")
    inputs = embeddings()[own].requires_grad_()
    head.zero_grad()
    output = head(inputs, LABELS[own], margins)
    (3 * output.loss).backward()
    assert inputs.grad is not None
    found = {
        "loss": group.mean(output.loss.detach()),
        "predictions": group.stack(output.predictions).flatten(),
    }
    found["embeddings"] = group.stack(inputs.grad / group.size).flatten(0, 1)
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        if head.shard and name == "weight":
            found[name] = head.shard.whole(parameter.grad / group.size)
        else:
            found[name] = group.mean(parameter.grad.clone())
    return found


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("length", [1, 4, 7, 22])
@pytest.mark.parametrize("margins", MARGINS, ids=str)
@pytest.mark.parametrize("fallback", ["arcface", "wespeaker"])
@pytest.mark.parametrize("subcentres", [1, 3])
def test_chunks_of_classes_give_the_numbers_of_all_at_once(
    subcentres: int, fallback: str, margins: Margins, length: int
) -> None:
    head = head_of("three centres" if subcentres == 3 else "one centre")
    head.fallback = fallback
    expected = results(head, margins)
    head.distribute(sharded=False, classes_per_chunk=length)
    assert_equal(results(head, margins), expected)


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("kind", ["A", "C"])
def test_sphereface2_in_chunks_is_sphereface2(kind: str, length: int) -> None:
    head = head_of(f"SphereFace2, {kind}")
    expected = results(head, MARGINS[2])
    head.distribute(sharded=True, classes_per_chunk=length)  # one process has the whole
    assert_equal(results(head, MARGINS[2]), expected)


def test_no_tensor_over_all_classes_is_made_beside_the_weight_s_gradient() -> None:
    head = head_of("three centres", num_classes=2000)
    head.distribute(sharded=False, classes_per_chunk=100)
    with LargeTensors(BATCH * head.num_classes) as large:
        results(head, MARGINS[0])
    assert large.shapes == {tuple(head.weight.shape)}


class LargeTensors(torch.utils._python_dispatch.TorchDispatchMode):
    """Shapes of the tensors that a block makes with as many values as a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() >= self._limit:
            self.shapes.add(tuple(result.shape))
        return result


CASES = [
    (name, margins) for name in HEADS for margins in MARGINS if "SphereFace2" not in name or not margins.top_k
]


def of_shards() -> list[tuple[dict[str, Tensor], int, dict[str, Tensor], dict[str, Tensor]]]:
    """By case: results, number of own classes, state, and the state after loading twice its weights."""
    found = []
    for name, margins in CASES:
        head = head_of(name)
        head.distribute(sharded=True, classes_per_chunk=5 if margins.top_k else NUM_CLASSES)
        result, state = results(head, margins), deepcopy(head.state_dict())
        head.load_state_dict({key: 2 * value for key, value in state.items()})
        found.append((result, head.weight.shape[head.class_dim], state, head.state_dict()))
    return found


@pytest.mark.project
@pytest.mark.parametrize(("size", "shares"), [(2, [11, 12]), (3, [7, 8, 8])])
def test_shards_give_the_numbers_and_the_state_of_the_whole(size: int, shares: list[int]) -> None:
    whole = [(head_of(name), margins) for name, margins in CASES]
    expected = [(results(head, margins), head.state_dict()) for head, margins in whole]
    for share, found in zip(shares, values_of(run_processes(size, of_shards)), strict=True):
        for (own, num_classes, own_state, doubled), (result, state) in zip(found, expected, strict=True):
            assert num_classes == share
            assert_equal(own, result)
            assert_equal(own_state, state)
            assert_equal(doubled, {key: 2 * value for key, value in state.items()})


@pytest.mark.parametrize("name", ["one centre", "three centres"])
@pytest.mark.parametrize("size", [2, 3])
def test_the_cases_have_targets_and_hardest_classes_on_other_processes(name: str, size: int) -> None:
    weight = functional.normalize(head_of(name).weight.detach(), dim=1)
    cosine = (functional.normalize(embeddings()) @ weight).amax(dim=0)
    cosine[torch.arange(BATCH), LABELS] = -1
    hardest = cosine.topk(TOP_K).indices
    bounds = torch.tensor([rank * NUM_CLASSES // size for rank in range(1, size)])
    of_rows = torch.arange(BATCH) // (BATCH // size)
    of_targets, of_hardest = (torch.bucketize(x, bounds, right=True) for x in (LABELS, hardest))
    assert (of_targets != of_rows).sum() >= 3
    assert (of_hardest != of_rows[:, None]).any(dim=1).sum() >= 3
    assert (of_hardest.amin(dim=1) != of_hardest.amax(dim=1)).sum() >= 3


class Unshardable(Head):
    """A head of another package, which knows nothing of shards."""

    Settings = HeadSettings.model_fields["aam_softmax"].annotation


def test_a_head_that_cannot_be_sharded_is_refused_in_one_line() -> None:
    kind = f"{__name__}.Unshardable"
    assert HeadSettings.parse({"kind": kind}, "head").kind == kind
    with pytest.raises(ParameterError, match=r"Unshardable' cannot be sharded.* aam_softmax, sphereface2"):
        HeadSettings.parse({"kind": kind, "sharded": True}, "head")


def refused() -> None:
    build_head(HeadSettings(), WIDTH, 1).distribute(sharded=True, classes_per_chunk=1)


@pytest.mark.project
def test_fewer_classes_than_processes_are_refused() -> None:
    for outcome in run_processes(2, refused):
        assert "2 processes cannot share 1 classes" in outcome.error
