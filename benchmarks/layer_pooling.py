"""Layer attentive pooling beside its direct formula: seconds, peak of living tensors, and difference.

    python -m benchmarks.layer_pooling [--device cuda] [--precision bfloat16] [--large]

Both ways have the same weights and pool the same states, in turn, in one run. The peak counts tensors alive
beyond inputs and weights. Differences are relative: the largest over the largest; of the outputs in float32,
of all gradients in float64 on fewer frames.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from benchmarks.timing import interleaved_seconds, parser_of, peak_bytes, say
from tests.support.direct_way import DirectLap
from torch import Tensor, nn

from speaker_verification.models.layer_aggregation.lap import LapSettings, LayerAttentivePooling

BASE, LARGE = (13, 768), (25, 1024)  # L+1 states of D channels
HEADS, OUTPUT_WIDTH, DROPOUT = 16, 512, 0.1
# A bias in front of a BatchNorm has no gradient but rounding: measured against this share of the largest.
SMALLEST_GRADIENT = 1e-6


def main() -> None:
    arguments = _parse()
    device = torch.device(arguments.device)
    num_states, width = LARGE if arguments.large else BASE
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    settings = LapSettings(num_heads=HEADS, output_width=OUTPUT_WIDTH, dropout=DROPOUT)
    ours = LayerAttentivePooling(num_states, width, settings).to(device)
    direct = DirectLap(copy.deepcopy(ours))
    say(
        f"{device}, {arguments.threads} threads, {arguments.precision}; B {arguments.batch}, "
        f"T {arguments.frames}, {num_states} states of {width}, {HEADS} heads, out {OUTPUT_WIDTH}; "
        f"median of {arguments.rounds}"
    )
    say(f"{'':36} {'direct':>8} {'ours':>8}")
    for to_states in (False, True):
        states = [
            torch.randn(arguments.batch, arguments.frames, width, device=device, requires_grad=to_states)
            for _ in range(num_states)
        ]
        _compare(ours, direct, states, arguments)
    _differences(ours, device)


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=5, larger="25 states of 1024 instead of 13 of 768")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=99)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser.parse_args()


def _compare(ours: nn.Module, direct: nn.Module, states: list[Tensor], arguments: argparse.Namespace) -> None:
    device = states[0].device
    steps, peaks = {}, {}
    for name, module in (("direct", direct), ("ours", ours)):
        steps[name] = _passes(module, states, arguments.precision)
        peaks[name] = peak_bytes(steps[name], device)
    seconds = interleaved_seconds(steps, arguments.rounds, device)
    trained = "gradients to the states" if states[0].requires_grad else "encoder frozen"
    rows = [("forward, s", *(seconds[n][0] for n in steps)), ("backward, s", *(seconds[n][1] for n in steps))]
    rows.append(("both, s", *(sum(seconds[n]) for n in steps)))
    for what, theirs, own in rows:
        say(f"{trained + ': ' + what:36} {theirs:8.3f} {own:8.3f} {theirs / own:8.2f} x faster")
    theirs, own = (peaks[name] / 1e6 for name in steps)
    say(f"{trained + ': peak, MB':36} {theirs:8.0f} {own:8.0f} {own / theirs:8.2f} of it")


def _passes(
    module: nn.Module, states: list[Tensor], precision: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    learning = [*module.parameters(), *(state for state in states if state.requires_grad)]
    outputs: list[Tensor] = []

    def forward() -> None:
        with torch.autocast(states[0].device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            outputs.append(module(states))

    def backward() -> None:
        output = outputs.pop()
        torch.autograd.grad(output, learning, torch.ones_like(output))

    return forward, backward


def _differences(ours: LayerAttentivePooling, device: torch.device) -> None:
    """With dropout off, as both draw in another order."""
    states = [
        torch.randn(4, 25, ours.in_norm.num_features, device=device)
        for _ in range(ours.squeeze_weight.shape[1])
    ]
    ours = copy.deepcopy(ours)
    ours.dropout.p = 0.0
    direct = DirectLap(copy.deepcopy(ours))
    with torch.no_grad():
        say(f"outputs in float32 differ by {_relative(ours(states), direct(states)):.1e}")
    ours, direct = ours.double(), direct.double()
    precise = [state.double().requires_grad_() for state in states]
    gradients = []
    for module in (direct, ours):
        output = module(precise)
        slope = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=device).view_as(output)
        gradients.append(torch.autograd.grad(output, [*module.parameters(), *precise], slope))
    floor = SMALLEST_GRADIENT * max(float(gradient.abs().max()) for gradient in gradients[0])
    worst = max(_relative(own, theirs, floor) for theirs, own in zip(*gradients, strict=True))
    running = max(
        _relative(own.double(), theirs.double())
        for own, theirs in zip(ours.buffers(), direct.buffers(), strict=True)
    )
    say(f"gradients in float64 differ by {worst:.1e}, running statistics by {running:.1e}")


def _relative(own: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    return float((own - theirs).abs().max()) / max(float(theirs.abs().max()), floor)


if __name__ == "__main__":
    main()
