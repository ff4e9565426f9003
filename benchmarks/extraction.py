"""Extraction in batches of equal length beside one utterance at a time.

    python -m benchmarks.extraction [--utterances 64] [--seconds 300] [--large] [--device cuda]

Random weights of WavLM's size; lengths drawn as VoxCeleb's are (at least 4 s, 8.2 s on average, most of them
short), in whole tenths of a second; noise in place of speech, made before the clock starts. On a CPU the
encoder is already at the speed of its matrix products: no gain is to be had there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from benchmarks.timing import interleaved_seconds, parser_of, peak_bytes, say
from benchmarks.training_step import LARGE
from transformers import WavLMConfig, WavLMModel

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring.extraction import extract_embeddings

SHORTEST, MEAN, LONGEST = 4.0, 8.2, 60.0  # seconds


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    device = torch.device(arguments.device)
    encoder = WavLMModel(WavLMConfig(**(LARGE if arguments.large else {})))
    model = SpeakerModel(encoder, ModelSettings()).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        utterances = _noise(Path(folder), arguments.utterances)

        def embed(batch_seconds: float) -> np.ndarray:
            return extract_embeddings(
                model, utterances, batch_seconds=batch_seconds, num_workers=2, progress=False
            ).embeddings

        ways = {"alone": (lambda: embed(0.0),), "batches": (lambda: embed(arguments.seconds),)}
        peaks = {name: peak_bytes(way, device) / 1e6 for name, way in ways.items()}
        seconds = interleaved_seconds(ways, arguments.rounds, device)
        alone, together = embed(0.0), embed(arguments.seconds)
    audio = utterances["duration_seconds"].sum()
    say(
        f"WavLM-{'Large' if arguments.large else 'Base'}, {len(utterances)} utterances of {audio:.0f} s, "
        f"batches of {arguments.seconds:g} s, {device}, {arguments.threads} threads; "
        f"median of {arguments.rounds}"
    )
    for name in ways:
        say(f"{name:8} {audio / seconds[name][0]:8.1f} s of audio per s, peak {peaks[name]:8.0f} MB")
    say(f"batches are {seconds['alone'][0] / seconds['batches'][0]:.2f} x as fast")
    difference = np.abs(alone - together).max() / np.abs(alone).max()
    say(f"embeddings differ by {difference:.1e} of the largest component")


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=3, larger="WavLM-Large instead of Base")
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0, help="of audio in a batch")
    return parser.parse_args()


def _noise(folder: Path, number: int) -> pd.DataFrame:
    """Files of VoxCeleb-like lengths and their table."""
    rng = np.random.default_rng(1)
    durations = (SHORTEST + rng.exponential(MEAN - SHORTEST, number)).clip(max=LONGEST).round(1)
    rows = []
    for index, duration in enumerate(durations):
        path = folder / f"{index:05}.wav"
        num_samples = round(duration * SAMPLE_RATE)
        soundfile.write(path, rng.normal(0, 0.1, num_samples), SAMPLE_RATE, subtype="PCM_16")
        rows.append((f"speaker/session/{path.name}", str(path), num_samples, duration))
    return pd.DataFrame(rows, columns=["utterance_id", "path", "num_samples", "duration_seconds"])


if __name__ == "__main__":
    main()
