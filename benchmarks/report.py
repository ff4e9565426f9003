"""Seconds and peak memory of the report of an evaluation, on random scores of VoxCeleb's size.

    python -m benchmarks.report --trials 37611 579818 550894

Three scorings of three trial lists between 1,251 speakers: a line for each step, and the size of the page.
The memory is that of the process at its peak, the tables included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from benchmarks.timing import say

from speaker_verification.common.tables import LEARNING_CURVE, SCORES
from speaker_verification.reporting.evaluation import Evaluation, render_evaluation
from speaker_verification.reporting.layer_weights import LayerWeights
from speaker_verification.reporting.verdict import Verdict
from speaker_verification.scoring.affine import AffineCalibration
from speaker_verification.scoring.breakdown import rates_by_group, reliability, worst_trials
from speaker_verification.scoring.calibration import Calibration, ScoringCalibration
from speaker_verification.scoring.curves import det_points, score_histograms
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.open_set import tabulate_rates
from speaker_verification.scoring.settings import ReportSettings, ScoreSettings
from speaker_verification.scoring.summary import compute_metrics

LISTS = ("vox1_o", "vox1_e", "vox1_h")
NUM_SPEAKERS, UTTERANCES_EACH = 1251, 118
NATIONALITIES = 36

Result = TypeVar("Result")


def draw_utterances(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of utterances and of their speakers."""
    ids = [f"id{10001 + speaker}" for speaker in range(NUM_SPEAKERS)]
    owners = np.repeat(ids, UTTERANCES_EACH)
    utterances = pd.DataFrame(
        {
            "utterance_id": [f"{owner}/s/{row:06d}.wav" for row, owner in enumerate(owners)],
            "speaker_id": owners,
            "duration_seconds": 4 + rng.exponential(4, len(owners)),
        }
    )
    countries = [f"country {number}" for number in range(NATIONALITIES)]
    speakers = pd.DataFrame(
        {
            "speaker_id": ids,
            "gender": rng.choice(["f", "m"], NUM_SPEAKERS),
            "nationality": rng.choice(countries, NUM_SPEAKERS),
        }
    )
    return utterances, speakers


def draw_scores(rng: np.random.Generator, utterances: pd.DataFrame, sizes: list[int]) -> pd.DataFrame:
    """Scores of lists of the given sizes, half of the trials targets."""
    tables = []
    for name, size in zip(LISTS, sizes, strict=True):
        label = rng.integers(0, 2, size)
        speaker = rng.integers(0, NUM_SPEAKERS, size)
        other = (speaker + rng.integers(1, NUM_SPEAKERS, size)) % NUM_SPEAKERS
        sides = [
            owner * UTTERANCES_EACH + rng.integers(0, UTTERANCES_EACH, size)
            for owner in (speaker, np.where(label == 1, speaker, other))
        ]
        llr = 8.0 * label - 4 + rng.normal(0, 2, size)
        enroll, test = (pd.Categorical.from_codes(rows, utterances["utterance_id"]) for rows in sides)
        sides_and_label = {"trial_list": name, "enroll_id": enroll, "test_id": test, "label": label}
        table = pd.DataFrame({**sides_and_label, "cosine": llr / 20, "as_norm": llr, "qmf": llr, "llr": llr})
        tables.append(table)
    return SCORES.conform(pd.concat(tables, ignore_index=True))


def calibration() -> Calibration:
    """Twenty times the cosine is a log-likelihood ratio, as are the other scores."""
    slopes = {"cosine": 20.0, "as_norm": 1.0, "qmf": 1.0}
    return Calibration(
        {name: ScoringCalibration(AffineCalibration(slope, 0.0)) for name, slope in slopes.items()},
        llr="qmf",
        centre=(0.0,),
        operating_points=(OperatingPoint(0.01), OperatingPoint(0.05)),
        speakers="cohort",
        prior=0.5,
        num_trials=30_000,
    )


def timed(step: str, compute: Callable[..., Result], *arguments: Any) -> Result:
    """Result of a step, whose seconds are printed."""
    started = time.perf_counter()
    result = compute(*arguments)
    say(f"{step:24} {time.perf_counter() - started:8.2f} s")
    return result


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, nargs=3, default=[37_611, 579_818, 550_894])
    sizes = parser.parse_args(arguments).trials
    rng = np.random.default_rng(0)
    utterances, speakers = draw_utterances(rng)
    scores, fitted = draw_scores(rng, utterances, sizes), calibration()
    metrics = compute_metrics(scores, fitted, utterances, ScoreSettings(bootstrap_resamples=0))
    say(f"{len(scores):,} trials of {len(fitted.scorings)} scorings")
    started = time.perf_counter()
    unknown = LayerWeights.unknown()
    evaluation = Evaluation(
        Verdict("lap_astp", "base", None, None, "", "qmf", None, {}, synthetic=False, unofficial=[]),
        metrics,
        fitted,
        timed("DET points", det_points, scores, fitted),
        timed("histograms", score_histograms, scores, fitted),
        timed("reliability", reliability, scores, fitted),
        timed("rates by group", rates_by_group, scores, fitted, utterances, speakers, ReportSettings()),
        timed("worst trials", worst_trials, scores, 20),
        tabulate_rates(None),
        unknown.mean,
        unknown.over_time,
        {"pretrain": LEARNING_CURVE.empty()},
    )
    page = timed("page", render_evaluation, evaluation)
    say(f"{'all':24} {time.perf_counter() - started:8.2f} s, page of {len(page.encode()) / 1e6:.2f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(f"{'peak of the process':24} {peak:8.2f} GiB")


if __name__ == "__main__":
    main(sys.argv[1:])
