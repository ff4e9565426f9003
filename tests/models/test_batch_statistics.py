"""Batch statistics of several processes: those of one process with the whole batch, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speaker_verification.common.distributed import processes
from speaker_verification.models.batch_statistics import share_batch_statistics
from speaker_verification.models.layer_aggregation.lap import LapSettings, LayerAttentivePooling
from tests.support.processes import run_processes, values_of

BATCH, CHANNELS, FRAMES, NUM_STATES = 6, 8, 5, 4


def normalisations(kind: str) -> nn.Module:
    torch.manual_seed(1)
    norm = {"vectors": nn.BatchNorm1d, "frames": nn.BatchNorm1d, "images": nn.BatchNorm2d}.get(kind)
    if norm is None:
        module: nn.Module = LayerAttentivePooling(
            NUM_STATES, CHANNELS, LapSettings(num_heads=2, output_width=6, dropout=0.0)
        )
    else:
        module = nn.Sequential(nn.Linear(1, 1), norm(CHANNELS, momentum=None if kind == "images" else 0.1))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def differentiated(kind: str) -> dict[str, Tensor]:
    """Output, summed gradients and state, of this process's share of one batch; torch's own where alone."""
    group, module = processes(), normalisations(kind)
    if group.joined:
        share_batch_statistics(module)
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)[group.share(BATCH, "batch")]

    shapes = {"vectors": (), "frames": (FRAMES,), "images": (FRAMES, 3)}
    if kind == "lap":
        inputs = [3 + 2 * drawn(BATCH, FRAMES, CHANNELS) for _ in range(NUM_STATES)]
        output = module([x.requires_grad_() for x in inputs])
    else:
        inputs = [3 + 2 * drawn(BATCH, CHANNELS, *shapes[kind])]
        output = module[1](inputs[0].requires_grad_())
    (output * drawn(BATCH, *output.shape[1:])).sum().backward()
    values = {"output": output.detach(), **{f"input {n}": x.grad for n, x in enumerate(inputs)}}
    values = {name: group.stack(value).flatten(end_dim=1) for name, value in values.items()}
    gradients = {n: group.sum(p.grad) for n, p in module.named_parameters() if p.grad is not None}
    return values | gradients | {f"state {name}": value for name, value in module.state_dict().items()}


@pytest.mark.project
@pytest.mark.parametrize("kind", ["vectors", "frames", "images", "lap"])
def test_two_processes_have_the_statistics_and_gradients_of_one(kind: str) -> None:
    expected = differentiated(kind)
    for found in values_of(run_processes(2, differentiated, kind)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, msg=name)
