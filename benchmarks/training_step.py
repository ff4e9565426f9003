"""A step of phase 1 (frozen encoder) beside the direct way, and where its time goes.

    python -m benchmarks.training_step [--batch 8] [--seconds 2] [--large] [--joint] [--device cuda]

Random weights of WavLM's size. The direct way has transformers' own attention, the direct formulas of layer
attentive pooling and of the margin head, and torch's default Adam; all else is the same. Both ways take turns
in one run.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import torch
from benchmarks.timing import interleaved_seconds, parser_of, peak_bytes, say, wait
from tests.support.direct_way import DirectHead, DirectLap
from torch import nn
from transformers import WavLMConfig, WavLMModel

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.optimiser import choose_trained

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}
NUM_CLASSES = 5994 * 3  # speakers of VoxCeleb2 at three speeds
MARGINS = Margins(target=0.3, top_k=5, top_k_penalty=0.06)


class Step:
    """Model, head and optimiser; called, a training step on one batch of noise."""

    def __init__(self, arguments: argparse.Namespace, direct: bool) -> None:
        torch.manual_seed(1)
        encoder = WavLMModel(WavLMConfig(**(LARGE if arguments.large else {})))
        attention = "original" if direct else "sdpa"
        settings = ModelSettings.parse({"frontend": {"attention": attention}}, "model")
        self.model = SpeakerModel(encoder, settings).to(arguments.device).train()
        head = DirectHead if direct else SubcentreMarginHead
        self.head = head(self.model.embedding_size, NUM_CLASSES, AamSoftmaxSettings())
        self.head.to(arguments.device)
        choose_trained(self.model.frontend, "trained" if arguments.joint else "frozen")
        self.model.frontend.train(arguments.joint)
        if direct:
            self.model.layer_aggregation["frames"] = DirectLap(self.model.layer_aggregation["frames"])
        learning = [p for part in (self.model, self.head) for p in part.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learning, lr=1e-5, weight_decay=5e-5, fused=not direct)
        samples = round(arguments.seconds * SAMPLE_RATE)
        self.waveforms = torch.randn(arguments.batch, samples, device=arguments.device)
        self.labels = torch.randint(NUM_CLASSES, (arguments.batch,), device=arguments.device)
        self.precision = getattr(torch, arguments.precision)
        device = self.waveforms.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=self.precision == torch.float16)

    def __call__(self) -> None:
        autocasts = self.precision != torch.float32
        with torch.autocast(self.waveforms.device.type, self.precision, enabled=autocasts):
            embeddings = self.model(self.waveforms)
        self.scaler.scale(self.head(embeddings, self.labels, MARGINS).loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    say(
        f"WavLM-{'Large' if arguments.large else 'Base'}, "
        f"encoder {'trained' if arguments.joint else 'frozen'}, "
        f"{arguments.batch} crops of {arguments.seconds} s, {device}, {arguments.threads} threads, "
        f"{arguments.precision}; median of {arguments.rounds}"
    )
    ways = {"direct": Step(arguments, direct=True), "ours": Step(arguments, direct=False)}
    steps = {name: (step,) for name, step in ways.items()}
    peaks = {name: peak_bytes(way, device) / 1e6 for name, way in steps.items()}
    seconds = interleaved_seconds(steps, arguments.rounds, device)
    theirs, own = seconds["direct"][0], seconds["ours"][0]
    say(f"step, s     direct {theirs:8.3f}   ours {own:8.3f}   {theirs / own:.2f} x faster")
    say(f"peak, MB    direct {peaks['direct']:8.0f}   ours {peaks['ours']:8.0f}")
    for name, step in ways.items():
        parts = _seconds_of_parts(step, device)
        total = sum(parts.values())
        shares = ", ".join(f"{part} {spent / total:.0%}" for part, spent in parts.items())
        say(f"{name}: {shares}")


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=5, larger="WavLM-Large instead of Base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--joint", action="store_true", help="train the encoder too, as phase 2 does")
    return parser.parse_args()


def _seconds_of_parts(step: Step, device: torch.device) -> dict[str, float]:
    """One step, its forward passes by part, then what is left: the backward pass and the optimiser."""
    encoder: Any = step.model.frontend.encoder
    named: dict[str, nn.Module] = {
        "convolutions": encoder.feature_extractor,
        "blocks": encoder.encoder,
        "LAP": step.model.layer_aggregation["frames"],
        "ASTP": step.model.speaker_network,
        "head": step.head,
    }
    spent: dict[str, float] = defaultdict(float)
    handles = [hook for name, part in named.items() for hook in _time_calls(name, part, spent, device)]
    started = _now(device)
    step()
    whole = _now(device) - started
    for handle in handles:
        handle.remove()
    return {**spent, "backward, optimiser and rest": whole - sum(spent.values())}


def _time_calls(name: str, part: nn.Module, spent: dict[str, float], device: torch.device) -> list[Any]:
    def start(*_: object) -> None:
        spent[name] -= _now(device)

    def stop(*_: object) -> None:
        spent[name] += _now(device)

    return [part.register_forward_pre_hook(start), part.register_forward_hook(stop)]


def _now(device: torch.device) -> float:
    wait(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
