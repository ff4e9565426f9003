"""W2V-BERT 2.0: features and attention beside transformers', as shares of a training step and as ratios.

    python -m benchmarks.w2v_bert [--threads 1] [--rounds 9] [--skip-step]

Features: ours on the device, and transformers' extractor, which the public codes call in every step; beside
them a step of phase 1 at the published shapes (24 blocks of 1024, frozen; adapter MFA and ASP; 17,982
classes; random weights of 2.4 GB). Attention: one block's, with its linear layers and without them (each
replaced by the identity), beside transformers' own steps (eager) and its default (sdpa). All ways take turns
in one run. The peak counts tensors alive beyond inputs and weights.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from typing import Any

import torch
from benchmarks.timing import Way, interleaved_seconds, peak_bytes, say
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models.encoders.log_mel import stacked_log_mel
from speaker_verification.models.encoders.w2v_bert_attention import FusedW2vBertAttention
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.optimiser import choose_trained

NUM_CROPS = 8
STEP_SECONDS, ATTENTION_SECONDS = 3, 6
NUM_CLASSES = 5994 * 3  # speakers of VoxCeleb2 at three speeds
SETTINGS: Mapping[str, Any] = {
    "layer_aggregation": {"kind": "adapter_mfa"},
    "speaker_network": {"kind": "asp"},
}
LINEAR_LAYERS = ("linear_q", "linear_k", "linear_v", "linear_out")


def main() -> None:
    arguments = _parse()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    say(f"{NUM_CROPS} crops, float32, {device}, {arguments.threads} threads; median of {arguments.rounds}")
    _features(arguments, device)
    _attention(arguments, device)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skip-step", action="store_true", help="no training step beside the features")
    return parser.parse_args()


def _features(arguments: argparse.Namespace, device: torch.device) -> None:
    waveforms = 0.1 * torch.randn(NUM_CROPS, STEP_SECONDS * SAMPLE_RATE, device=device)
    extractor = SeamlessM4TFeatureExtractor()

    def extract() -> Tensor:
        arrays = list(waveforms.cpu().numpy())
        features = extractor(arrays, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
        return features.to(device)

    ways: dict[str, tuple[Way, ...]] = {
        "extractor": (extract,),
        "ours": (lambda: stacked_log_mel(waveforms),),
    }
    if not arguments.skip_step:
        ways["step"] = (_Step(waveforms),)
    seconds = {name: steps[0] for name, steps in interleaved_seconds(ways, arguments.rounds, device).items()}
    theirs, ours = seconds["extractor"], seconds["ours"]
    say(f"features of {STEP_SECONDS} s")
    say(f"  extractor {1e3 * theirs:6.1f} ms, ours {theirs / ours:.2f} x as fast")
    say(f"  ours      {1e3 * ours:6.1f} ms")
    if "step" in seconds:
        step = seconds["step"]
        shares = f"ours {ours / step:.1%} of it, extractor {theirs / step:.1%}"
        say(f"  a step of phase 1 takes {step:.2f} s: {shares}")


class _Step:
    """A step of phase 1: frozen encoder, forward and backward pass, optimiser."""

    def __init__(self, waveforms: Tensor) -> None:
        device = waveforms.device
        encoder = Wav2Vec2BertModel(Wav2Vec2BertConfig(layerdrop=0.0, apply_spec_augment=False))
        self.model = SpeakerModel(encoder, ModelSettings.parse(SETTINGS, "model")).to(device).train()
        choose_trained(self.model.frontend, "frozen")
        self.model.frontend.eval()
        self.head = SubcentreMarginHead(self.model.embedding_size, NUM_CLASSES, AamSoftmaxSettings()).to(
            device
        )
        learning = [p for part in (self.model, self.head) for p in part.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, lr=1e-4, fused=True)
        self.waveforms = waveforms
        self.labels = torch.randint(NUM_CLASSES, (len(waveforms),), device=device)

    def __call__(self) -> None:
        margins = Margins(target=0.2, top_k=0, top_k_penalty=0.0)
        self.head(self.model(self.waveforms), self.labels, margins).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def _attention(arguments: argparse.Namespace, device: torch.device) -> None:
    frames = (100 * ATTENTION_SECONDS - 2) // 2
    states = torch.randn(NUM_CROPS, frames, Wav2Vec2BertConfig().hidden_size, device=device)
    whole = _attentions(device)
    without = {name: _without_linear_layers(attention) for name, attention in whole.items()}
    for part, attentions in (("without its linear layers", without), ("whole", whole)):
        for passes, learns in (("forward", False), ("forward and backward", True)):
            ways: dict[str, tuple[Way, ...]] = {
                name: (_pass(attention, states, learns),) for name, attention in attentions.items()
            }
            peaks = {name: peak_bytes(steps, device) / 1e6 for name, steps in ways.items()}
            seconds = interleaved_seconds(ways, arguments.rounds, device)
            ours = seconds["ours"][0]
            say(f"attention of {ATTENTION_SECONDS} s, {part}: {passes}")
            for name, (spent,) in seconds.items():
                ratio = f", ours {spent / ours:.2f} x as fast" if name != "ours" else ""
                say(f"  {name:6} {1e3 * spent:6.0f} ms, peak {peaks[name]:5.0f} MB{ratio}")


def _attentions(device: torch.device) -> dict[str, nn.Module]:
    """The same attention computed in three ways."""
    attentions: dict[str, nn.Module] = {}
    for name, implementation in (("eager", "eager"), ("sdpa", "sdpa"), ("ours", "eager")):
        torch.manual_seed(1)
        config = Wav2Vec2BertConfig(attention_dropout=0.0, attn_implementation=implementation)
        attentions[name] = Wav2Vec2BertSelfAttention(config).to(device)
    attentions["ours"].__class__ = FusedW2vBertAttention
    return attentions


def _without_linear_layers(attention: nn.Module) -> nn.Module:
    attention = copy.deepcopy(attention)
    for name in LINEAR_LAYERS:
        setattr(attention, name, nn.Identity())
    return attention


def _pass(attention: nn.Module, states: Tensor, learns: bool) -> Way:
    inputs = states.clone().requires_grad_(learns)
    learning = [inputs, *attention.parameters()]
    slope = torch.ones_like(inputs)

    def run() -> None:
        with torch.set_grad_enabled(learns):
            (mixed, _) = attention(inputs)
        if learns:
            torch.autograd.grad(mixed, learning, slope)

    return run


if __name__ == "__main__":
    main()
