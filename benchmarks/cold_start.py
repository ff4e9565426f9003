"""Seconds from the start of `speaker-verification` to its answer, and the parts of them.

    python -m benchmarks.cold_start VERIFIER

Every command is a process of its own, in turn with `import torch` alone; the parts are of one process.
Medians of wall seconds and, as they hardly depend on other work, of processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
from benchmarks.timing import say

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.corpora.synthetic.voices import draw_voices, speak

SECONDS = 4.0  # of a recording
COMMAND = ("-m", "speaker_verification.command_line")
SUBCOMMANDS = ("verify", "embed", "score", "enrol", "identify", "store", "store re-embed")

PARTS = """\
import json, sys, time
times, start = {}, (time.perf_counter(), time.process_time())
def done(part):
    global start
    now = time.perf_counter(), time.process_time()
    times[part], start = [now[0] - start[0], now[1] - start[1]], now
import torch
done("import torch")
from transformers import AutoModel, WavLMModel
done("import of transformers' models")
from speaker_verification.deployment.recordings import read_recording
from speaker_verification.deployment.verifier import Verifier
done("all other imports")
verifier = Verifier.from_pretrained(sys.argv[1])
done("verifier: checksums, weights, cohort")
recordings = [read_recording(path, verifier.settings.limits) for path in sys.argv[2:]]
done("recordings: decoding, speech")
store = verifier.embed(recordings)
done("embeddings")
verifier.compare_embeddings(store.at([0]), store.at([1]))
done("scores")
print(json.dumps(times))
"""


def write_recordings(folder: Path) -> list[str]:
    """Two recordings of a synthetic voice."""
    rng = np.random.default_rng(0)
    (voice,) = draw_voices(1, rng)
    paths = [folder / f"{number}.wav" for number in range(2)]
    for path in paths:
        said = speak(voice, SECONDS, rng)
        soundfile.write(path, 0.5 * said / np.abs(said).max(), SAMPLE_RATE)
    return [str(path) for path in paths]


def timed(arguments: list[str]) -> tuple[str, tuple[float, float]]:
    """Output of Python with arguments, and its wall and processor seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    printed = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return printed, (wall, processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verifier", type=Path, help="folder of a verifier")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_recordings(Path(folder))
        verify = [*COMMAND, "verify", *paths, "--model", str(options.verifier), "--device", "cpu"]
        ways = {
            "import torch": ["-c", "import torch"],
            "verify": verify,
            "--help": [*COMMAND, "--help"],
            **{f"{name} --help": [*COMMAND, *name.split(), "--help"] for name in SUBCOMMANDS},
        }
        seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(options.rounds):
            for name, arguments in ways.items():
                seconds[name].append(timed(arguments)[1])
            printed, _ = timed(["-c", PARTS, str(options.verifier), *paths])
            for part, times in json.loads(printed).items():
                seconds[f"part: {part}"].append(tuple(times))
    say(f"wall and processor seconds, medians of {options.rounds}, on {os.cpu_count()} cores")
    for name, times in seconds.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        say(f"{name:45} {wall:8.3f} {processor:8.3f}")


if __name__ == "__main__":
    main()
