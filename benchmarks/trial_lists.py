"""A list as long as VoxCeleb1-E, read beside the direct way: every line split in a loop.

    python -m benchmarks.trial_lists [--trials 579818] [--repeats 5]

The list is drawn over 1,251 speakers of 117 utterances. Both ways read the same file in turns; the check
against a manifest and the description in the trial_lists table are timed besides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.corpora.trials.trial_lists import describe_lists
from speaker_verification.corpora.trials.trials import read_trial_list, read_trials

SPEAKERS, UTTERANCES = 1_251, 117


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=579_818)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "list.txt"
        utterances = write_list(path, arguments.trials)
        trials = read_trial_list(path, "list")
        directly = read_directly(path)
        pd.testing.assert_frame_equal(trials[list(directly)].astype(directly.dtypes), directly)
        ways: dict[str, Callable[[], Any]] = {
            "ours": lambda: read_trial_list(path, "list"),
            "line by line": lambda: read_directly(path),
            "ours, with the check": lambda: read_trials({"list": path}, utterances),
            "description": lambda: describe_lists(trials, {"list": path}, utterances),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.repeats):
            for way, work in ways.items():
                started = time.perf_counter()
                work()
                seconds[way].append(time.perf_counter() - started)
    sys.stdout.write(f"{arguments.trials:,} trials, median of {arguments.repeats}\n")
    for way, times in seconds.items():
        sys.stdout.write(f"{way:22} {statistics.median(times):6.3f} s\n")
    ratios = [slow / fast for slow, fast in zip(seconds["line by line"], seconds["ours"], strict=True)]
    sys.stdout.write(f"{'line by line : ours':22} {statistics.median(ratios):6.2f}\n")


def write_list(path: Path, num_trials: int) -> pd.DataFrame:
    """Draw a list; give the ids that it draws from."""
    rng = np.random.default_rng(0)
    sessions = ["".join(letters) for letters in rng.choice([*"abcdefghijkl-_0123"], (SPEAKERS, 11))]
    ids = [
        f"id{10_001 + speaker}/{session}/{number:05d}.wav"
        for speaker, session in enumerate(sessions)
        for number in range(UTTERANCES)
    ]
    pairs = rng.integers(len(ids), size=(num_trials, 2)).tolist()
    labels = rng.integers(2, size=num_trials).tolist()
    lines = (f"{label} {ids[a]} {ids[b]}\n" for label, (a, b) in zip(labels, pairs, strict=True))
    path.write_text("".join(lines))
    return pd.DataFrame({"utterance_id": ids, "speaker_id": [name.split("/")[0] for name in ids]})


def read_directly(path: Path) -> pd.DataFrame:
    """Every line split in a loop."""
    with path.open() as file:
        rows = [(int(label), enroll, test) for label, enroll, test in map(str.split, file)]
    return pd.DataFrame(rows, columns=["label", "enroll_id", "test_id"])


if __name__ == "__main__":
    main()
