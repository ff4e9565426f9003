"""The three phases and extraction of WavLM-Large at the published shapes, on a GPU.

    python -m benchmarks.published_shapes [--processes 4] [--rounds 10] [--device cuda]

Random weights, noise in place of speech. LAP's batches are shared out over four GPUs as published, so one of
them has 128 crops of 2 s, or 32 of 6 s; `--processes 1` has the whole batch. Ours is bfloat16 with fused
attention, without and with compiled blocks. Beside it: transformers' own model in float16 with a scaled loss,
the direct formulas of layer attentive pooling and of the margin head, and torch's default Adam. An epoch is
the 1,092,009 utterances of VoxCeleb2 on one GPU; its time is that of the steps, with data loaded as fast.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.timing import interleaved_seconds, parser_of, peak_bytes, say
from benchmarks.training_step import LARGE, Step
from transformers import WavLMConfig, WavLMModel

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.precision import Precision, computing_in
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel

PHASES = {"pretrain": (512, 2.0, False), "finetune": (512, 2.0, True), "lmft": (128, 6.0, True)}
NUM_UTTERANCES = 1_092_009  # of VoxCeleb2's development part
EMBEDDED_SECONDS = (8.0, 20)  # length of an utterance, near VoxCeleb's mean, and utterances of a batch
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")


def main() -> None:
    arguments = _parse()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{name}, torch {torch.__version__}, WavLM-Large, median of {arguments.rounds}")
    say(f"{'phase':9} {'batch':>12} {'way':26} {'s a step':>9} {'peak GB':>8} {'h an epoch':>10}")
    for phase in arguments.phases:
        batch, seconds, joint = PHASES[phase]
        _time_phase(phase, batch // arguments.processes, seconds, joint, arguments, device)
    if arguments.extraction:
        _time_extraction(arguments, device)


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=10, larger="unused: the model is WavLM-Large")
    parser.set_defaults(device="cuda", large=True)
    parser.add_argument("--processes", type=int, default=4, help="among which a batch is shared out")
    parser.add_argument("--phases", nargs="*", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--no-extraction", dest="extraction", action="store_false")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


def _time_phase(
    phase: str,
    batch: int,
    seconds: float,
    joint: bool,
    arguments: argparse.Namespace,
    device: torch.device,
) -> None:
    options = {"large": True, "joint": joint, "batch": batch, "seconds": seconds, "device": device}
    for way in _ways(arguments.compile):
        precision = "float16" if way.startswith("transformers") else "bfloat16"
        settings = argparse.Namespace(**options, precision=precision)
        line = f"{phase:9} {f'{batch} x {seconds:g} s':>12} {way:26}"
        try:
            step = Step(settings, direct=precision == "float16")
            if way.endswith("compiled"):
                step.model.frontend.compile_blocks()
            step()
            peak = peak_bytes((step,), device) / 1e9
            (median,) = interleaved_seconds({way: (step,)}, arguments.rounds, device)[way]
        except torch.OutOfMemoryError:
            say(f"{line} {'out of memory':>18}")
        else:
            hours = NUM_UTTERANCES / batch * median / 3600
            say(f"{line} {median:9.3f} {peak:8.1f} {hours:10.2f}")
        step = None
        _free(device)


def _ways(compiles: bool) -> tuple[str, ...]:
    ways = ("transformers, float16", "ours, bfloat16")
    return (*ways, "ours, bfloat16, compiled") if compiles else ways


def _time_extraction(arguments: argparse.Namespace, device: torch.device) -> None:
    """Seconds of audio embedded in a second, in batches of equal length."""
    seconds, batch = EMBEDDED_SECONDS
    waves = torch.randn(batch, round(seconds * SAMPLE_RATE), device=device)
    torch.manual_seed(1)
    model = SpeakerModel(WavLMModel(WavLMConfig(**LARGE)), ModelSettings()).to(device).eval()

    def embedding(precision: Precision, waves: torch.Tensor) -> Callable[[], Any]:
        def embed() -> Any:
            with computing_in(precision, device):
                return model.embed(waves)

        return embed

    ways: dict[str, tuple[Callable[[], Any], ...]] = {
        precision: (embedding(precision, waves),) for precision in PRECISIONS
    }
    exact = ways["float32"][0]()
    own = ModelSettings.parse({"frontend": {"attention": "original"}}, "model")
    theirs = SpeakerModel(WavLMModel(WavLMConfig(**LARGE)), own).to(device).eval()

    def theirs_in(*batches: torch.Tensor) -> Callable[[], Any]:
        def embed() -> Any:
            with torch.autocast(device.type, torch.float16):
                return [theirs.embed(waves) for waves in batches]

        return embed

    ways["transformers, float16, one by one"] = (theirs_in(*waves),)
    ways["transformers, float16, same batch"] = (theirs_in(waves),)
    timed = interleaved_seconds(ways, arguments.rounds, device)
    say(f"extraction: {batch} utterances of {seconds:g} s a batch")
    for way, (median,) in timed.items():
        line = f"{way:34} {batch * seconds / median:8.0f} s of audio a second"
        if way in PRECISIONS:
            peak = peak_bytes(ways[way], device) / 1e9
            error = float((ways[way][0]() - exact).abs().max() / exact.abs().max())
            line += f", peak {peak:.1f} GB, {error:.1e} off float32"
        say(line)


def _free(device: torch.device) -> None:
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
