"""Time and memory of long recordings' embeddings, at the default window.

    python -m benchmarks.long_recordings [--seconds 30 150 3600] [--window-seconds 150] [--large]

Random weights of WavLM's size, noise in place of speech. Every length has a process of its own, and the peak
is that process's resident memory: imports, weights and the waveform (64 kB a second) count. On a GPU the peak
of what torch has allocated there stands beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from benchmarks.timing import parser_of, say, wait
from benchmarks.training_step import LARGE
from transformers import WavLMConfig, WavLMModel

from speaker_verification.audio.crops import WINDOW_SECONDS
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel


def main() -> None:
    arguments = _parse()
    say(
        f"WavLM-{'Large' if arguments.large else 'Base'}, windows of at most {arguments.window_seconds:g} s, "
        f"{arguments.device}, {arguments.threads} threads; median of {arguments.rounds}"
    )
    fresh = multiprocessing.get_context("spawn")
    for duration in arguments.seconds:
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            say(pool.submit(_measure, arguments, duration).result())


def _measure(arguments: argparse.Namespace, duration: float) -> str:
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    device = torch.device(arguments.device)
    encoder = WavLMModel(WavLMConfig(**(LARGE if arguments.large else {})))
    model = SpeakerModel(encoder, ModelSettings()).to(device).eval()
    waveforms = torch.randn(1, round(duration * SAMPLE_RATE)).mul_(0.1)
    before = _peak_megabytes()
    times = []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        model.embed(waveforms, window_seconds=arguments.window_seconds)
        wait(device)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    line = f"{duration:8g} s: {seconds:8.1f} s, peak {_peak_megabytes():6.0f} MB, {before:.0f} MB before"
    if device.type == "cuda":
        line += f"; {torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB on the GPU"
    return line


def _peak_megabytes() -> float:
    """Most resident memory that this process ever had, in 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=1, larger="WavLM-Large instead of Base")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, WINDOW_SECONDS, 3600.0])
    parser.add_argument("--window-seconds", type=float, default=WINDOW_SECONDS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
