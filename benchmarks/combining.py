"""Ways to combine several enrolment recordings of a speaker, on a finished run's trial utterances.

    python -m benchmarks.combining data/mini [--draws 20]

The utterances of each speaker with more than five are put into drawn orders. The first 1, 2, 3 and 5 are
enrolled; those after the fifth are the tests of target trials, and all utterances of other speakers those of
non-target trials. Log-likelihood ratios are the packaged verifier's, calibrated on single recordings.
Intervals are of 95 %, by speakers drawn with replacement; those of differences are paired.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.timing import say

from speaker_verification.deployment.verifier import Verifier, mean_embedding
from speaker_verification.scoring.bootstrap import (
    draw_speakers,
    percentile_interval,
    resampled_equal_error_rates,
)
from speaker_verification.scoring.cohort import number_speakers
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.metrics import cllr, decision_errors, sort_trials

NUMBERS = (1, 2, 3, 5)  # of enrolled recordings
TOP_K = 3  # as Verifier.compare
NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials between drawn enrolments of speakers and single utterances.

    Attributes:
        orders: (M, most) rows of the utterances to enrol, of which the first count.
        model: (trials,) enrolment.
        test: (trials,) row of the test utterance.
        labels: (trials,), 1 target, 0 non-target.
        speakers: (trials, 2) speakers of both sides.
    """

    orders: np.ndarray
    model: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray


def draw_trials(store: EmbeddingStore, num_draws: int) -> Trials:
    """Enrolments of the speakers with enough utterances, and all trials with them."""
    numbers, _ = number_speakers(store.utterances["speaker_id"])
    rng, most = np.random.default_rng(0), max(NUMBERS)
    enrolled = np.flatnonzero(np.bincount(numbers) > most)
    if not len(enrolled):
        sys.exit(f"no speaker has more than {most} utterances in the trials: take another run")
    of_models = np.repeat(enrolled, num_draws)
    orders = np.stack([rng.permutation(np.flatnonzero(numbers == speaker))[:most] for speaker in of_models])
    is_own = of_models[:, None] == numbers
    is_enrolled = (orders[:, :, None] == np.arange(len(numbers))).any(axis=1)
    model, test = (~is_enrolled).nonzero()
    labels = is_own[model, test].astype(int)
    return Trials(orders, model, test, labels, np.stack([of_models[model], numbers[test]], axis=1))


def combined(verifier: Verifier, store: EmbeddingStore, trials: Trials) -> dict[tuple[str, int], np.ndarray]:
    """Log-likelihood ratios (trials,) by way and number of enrolled recordings."""
    count = len(store.embeddings)
    rows = np.indices((count, count)).reshape(2, -1)
    single = verifier.score(store, *rows)["llr"].reshape(count, count)  # (enrolled, test)
    found: dict[tuple[str, int], np.ndarray] = {}
    for number in NUMBERS:
        enrolled = trials.orders[:, :number]  # (M, number)
        models = EmbeddingStore.joined([mean_embedding(store.at(rows)) for rows in enrolled])
        both = EmbeddingStore.joined([models, store])
        found["mean embedding", number] = verifier.score(
            both, trials.model, len(models.embeddings) + trials.test
        )["llr"]
        rising = np.sort(single[enrolled[trials.model], trials.test[:, None]], axis=1)  # (trials, number)
        if number == 1:
            continue
        found["best", number] = rising[:, -1]
        found[f"mean of the {TOP_K} best", number] = rising[:, -TOP_K:].mean(axis=1)
    return found


def resampled_cllr(llrs: np.ndarray, trials: Trials) -> np.ndarray:
    """Cllr in bits (resamples,) of speakers drawn with replacement, NaN where a class is lost."""
    is_target = trials.labels == 1
    losses = np.logaddexp(0, np.where(is_target, -llrs, llrs)) / np.log(2)
    one, other = trials.speakers.T
    times_drawn = draw_speakers(1 + int(trials.speakers.max()), NUM_RESAMPLES)
    values = np.zeros(NUM_RESAMPLES)
    for resample, times in enumerate(times_drawn.T):
        weights = times[one] * np.where(is_target, 1, times[other])
        for label in (is_target, ~is_target):
            total = weights[label].sum()
            values[resample] += weights[label] @ losses[label] / total / 2 if total else np.nan
    return values


def told(value: float, resampled: np.ndarray, digits: int) -> str:
    low, high = percentile_interval(resampled) or (np.nan, np.nan)
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def report(verifier: Verifier, store: EmbeddingStore, trials: Trials) -> None:
    """Print a table of all ways, and of their differences from the mean embedding."""
    num_speakers, num_targets = len(np.unique(trials.speakers[:, 0])), trials.labels.sum()
    say(
        f"{num_speakers} enrolled speakers, {len(trials.orders)} enrolments, {num_targets:,} target and "
        f"{len(trials.labels) - num_targets:,} non-target trials, decided by {verifier.settings.score.llr}\n"
    )
    point = verifier.operating_points[-1]
    header = ["enrolled", "way", "EER %", "EER - that of the mean embedding", "Cllr", "least Cllr"]
    header.append(f"misses, false acceptances % at P_target {point.p_target:g}")
    say(f"| {' | '.join(header)} |\n{'| --- ' * len(header)}|")
    reference: dict[int, tuple[float, np.ndarray]] = {}
    for (way, number), llrs in combined(verifier, store, trials).items():
        in_order = sort_trials(llrs, trials.labels)
        resampled = resampled_equal_error_rates(in_order, *trials.speakers.T, num_resamples=NUM_RESAMPLES)
        eer, _ = in_order.equal_error_rate()
        of_mean = reference.setdefault(number, (eer, resampled))
        difference = "" if of_mean[1] is resampled else told(eer - of_mean[0], resampled - of_mean[1], 2)
        actual = told(cllr(llrs, trials.labels), resampled_cllr(llrs, trials), 3)
        errors = decision_errors(llrs, trials.labels, point)
        rates = f"{100 * errors.miss_rate:.1f}, {100 * errors.false_acceptance_rate:.2f}"
        cells = (
            number,
            way,
            told(eer, resampled, 2),
            difference,
            actual,
            f"{in_order.min_cllr():.3f}",
            rates,
        )
        say(f"| {' | '.join(map(str, cells))} |")


def newest(data_root: Path, pattern: str) -> Path:
    """Newest version of a dataset."""
    found = sorted(data_root.glob(pattern))
    if not found:
        sys.exit(f"{data_root} has no {pattern}: kedro run --pipeline=evaluate, then --pipeline=package")
    return found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data_root", type=Path, help="of a run with `package`")
    parser.add_argument("--draws", type=int, default=20, help="enrolments of each speaker")
    options = parser.parse_args()
    verifier = Verifier.from_pretrained(newest(options.data_root, "09_deployment/verifier/*/verifier"))
    store = EmbeddingStore.read(newest(options.data_root, "07_model_output/embeddings/*/embeddings"))
    report(verifier, store, draw_trials(store, options.draws))


if __name__ == "__main__":
    main()
