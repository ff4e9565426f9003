"""Seconds of metrics, the bootstrap and text files of scores, beside the direct ways.

    python -m benchmarks.decisions --trials 580000 --repeats 3

Random trials between 1,251 speakers, half of them targets. Both ways run in turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from speaker_verification.scoring import (
    equal_error_rate,
    min_cllr,
    min_detection_cost,
    read_score_file,
    write_score_file,
)
from speaker_verification.scoring.bootstrap import equal_error_rate_interval
from speaker_verification.scoring.metrics import OperatingPoint, SortedTrials, sort_trials

NUM_SPEAKERS, NUM_RESAMPLES = 1251, 200


def draw_trials(num_trials: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and the speakers of both sides, (trials,) each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, num_trials)
    enroll = rng.integers(0, NUM_SPEAKERS, num_trials)
    other = (enroll + rng.integers(1, NUM_SPEAKERS, num_trials)) % NUM_SPEAKERS
    scores = 4 * labels + rng.normal(size=num_trials)
    return scores, labels, enroll, np.where(labels == 1, enroll, other)


def resample_one_by_one(trials: SortedTrials, enroll: np.ndarray, test: np.ndarray) -> list[float]:
    """The bootstrap as a loop over resamples, each with its own rates at all thresholds."""
    rng = np.random.default_rng(0)
    enroll, test = enroll[trials.order], test[trials.order]
    rates = []
    for _ in range(NUM_RESAMPLES):
        drawn = np.bincount(rng.integers(NUM_SPEAKERS, size=NUM_SPEAKERS), minlength=NUM_SPEAKERS)
        weights = np.where(enroll == test, drawn[enroll], drawn[enroll] * drawn[test])
        misses = np.cumsum(weights * trials.is_target)
        refused = np.cumsum(weights * ~trials.is_target)
        fnr, fpr = misses / misses[-1], 1 - refused / refused[-1]
        place = np.abs(fnr - fpr).argmin()
        rates.append(100 * max(fnr[place], fpr[place]))
    return rates


def read_line_by_line(path: Path) -> list[tuple[str, str, float, int]]:
    """A file of scores read as text."""
    with path.open() as file:
        fields = (line.split() for line in file)
        return [(enroll, test, float(score), int(label == "target")) for enroll, test, score, label in fields]


def compare(what: str, ours: Callable[[], object], direct: Callable[[], object], repeats: int) -> None:
    """Print the medians of both ways and their ratio."""
    seconds: dict[Callable[[], object], list[float]] = {ours: [], direct: []}
    for _ in range(repeats):
        for way, taken in seconds.items():
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    fast, slow = (statistics.median(taken) for taken in seconds.values())
    sys.stdout.write(f"{what:42} {1e3 * fast:8.0f} ms  direct {1e3 * slow:8.0f} ms  {slow / fast:5.1f} x\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=580_000, help="in the list (VoxCeleb1-E has 579,818)")
    parser.add_argument("--repeats", type=int, default=3, help="of every timing, 1 or more")
    options = parser.parse_args()
    scores, labels, enroll, test = draw_trials(options.trials)
    points = [OperatingPoint(0.01), OperatingPoint(0.05)]

    def measure_once_sorted() -> None:
        trials = sort_trials(scores, labels)
        trials.equal_error_rate()
        trials.min_cllr()
        for point in points:
            trials.min_detection_cost(point)

    def measure_each_alone() -> None:
        equal_error_rate(scores, labels)
        min_cllr(scores, labels)
        for point in points:
            min_detection_cost(scores, labels, point.p_target)

    min_cllr(scores[:100], labels[:100])  # so that no timing holds scikit-learn's import
    trials = sort_trials(scores, labels)
    compare("EER, two minDCF, minCllr", measure_once_sorted, measure_each_alone, options.repeats)
    compare(
        f"bootstrap of {NUM_RESAMPLES}",
        lambda: equal_error_rate_interval(trials, enroll, test, num_resamples=NUM_RESAMPLES),
        lambda: resample_one_by_one(trials, enroll, test),
        options.repeats,
    )
    ids = [f"id{speaker}/session/00001.wav" for speaker in range(NUM_SPEAKERS)]
    table = pd.DataFrame(
        {"enroll_id": np.take(ids, enroll), "test_id": np.take(ids, test), "score": scores, "label": labels}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.txt"
        write_score_file(path, table)
        compare(
            "text file of scores",
            lambda: read_score_file(path),
            lambda: read_line_by_line(path),
            options.repeats,
        )


if __name__ == "__main__":
    main()
