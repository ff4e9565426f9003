"""Scoring VoxCeleb's numbers of trials, utterances and cohort speakers, beside the direct ways.

    python -m benchmarks.scoring [--width 192 256] [--device cpu]
    python -m benchmarks.scoring --large

Embeddings are random but cluster by speaker. All comparisons come from one run, in turns; times are medians.
Memory is what the process holds itself, and that plus the file pages mapped into it, which the system takes
back when it needs them. `--large` scores up to 20 million trials of a million memory-mapped utterances.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from speaker_verification.common.tables import UTTERANCES
from speaker_verification.pipelines.score.nodes import (
    fit_scorings,
    score_trials,
    summarise_cohort,
)
from speaker_verification.scoring import Calibration, EmbeddingStore, cohort_statistics
from speaker_verification.scoring.blocks import row_blocks
from speaker_verification.scoring.bootstrap import equal_error_rate_interval
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.metrics import sort_trials
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.summary import compute_metrics

VOX1_SPEAKERS, VOX1_UTTERANCES = 1251, 153_516
VOX1_TEST_SPEAKERS, VOX1_TEST_UTTERANCES = 40, 4_874
VOX2_SPEAKERS, VOX2_UTTERANCES = 5_994, 1_092_009
TRIALS = {"vox1_o": 37_611, "vox1_e": 579_818, "vox1_h": 550_894}
LARGE = [(250_000, 5_000_000), (500_000, 10_000_000), (1_000_000, 20_000_000)]  # utterances, trials
LARGE_COHORT_UTTERANCES = 60_000
PUBLISHED = ScoreSettings()
SCORINGS = ("cosine", "as_norm", "llr")
ROUNDS = 3
SAMPLED_TRIALS = 500
SORTED_UTTERANCES = 10_000
NOISE = 1.6  # of an utterance, where speakers have deviation 1: error rates of some per cent

Array = NDArray[Any]

NO_VALIDATION = UTTERANCES.empty()  # calibrations are fitted on the cohort's speakers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[192, 256], help="of the embeddings")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda:N")
    parser.add_argument("--large", action="store_true", help="20 million trials instead of VoxCeleb's")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary one")
    arguments = parser.parse_args()
    for width in arguments.width:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            if arguments.large:
                measure_large(Path(folder), width, arguments.device)
            else:
                measure_voxceleb(Path(folder), width, arguments.device)


def measure_voxceleb(folder: Path, width: int, device: str) -> None:
    """Everything at VoxCeleb's own sizes."""
    say(f"\nwidth {width}: {VOX1_UTTERANCES:,} utterances, {VOX2_SPEAKERS:,} cohort speakers")
    # VoxCeleb1's test speakers are the first ones, in the first rows.
    counts = [
        *spread(VOX1_TEST_UTTERANCES, VOX1_TEST_SPEAKERS),
        *spread(VOX1_UTTERANCES - VOX1_TEST_UTTERANCES, VOX1_SPEAKERS - VOX1_TEST_SPEAKERS),
    ]
    store = make_store(folder / "vox1", counts, width, seed=1)
    cohort_store = make_store(folder / "vox2", spread(VOX2_UTTERANCES, VOX2_SPEAKERS), width, seed=2)
    trials = pd.concat(
        [
            draw_trials(store, name, number, VOX1_TEST_UTTERANCES if name == "vox1_o" else VOX1_UTTERANCES)
            for name, number in TRIALS.items()
        ],
        ignore_index=True,
    )
    settings = ScoreSettings()
    cohort = timed("cohort centre and speaker means", summarise_cohort, cohort_store, PUBLISHED)
    compare_statistics(store, cohort, settings, device)
    scores, seconds = measure_chain(trials, store, cohort_store, cohort, device)
    compare_one_by_one(scores, store, cohort, settings, seconds)
    measure_bootstrap(scores)


def compare_statistics(store: EmbeddingStore, cohort: Cohort, settings: ScoreSettings, device: str) -> None:
    """Cohort statistics beside the matrix products that they cannot do without, and beside a full sort."""
    directions = centre_and_normalise(np.asarray(store.embeddings), cohort.centre).astype(np.float32)
    members = centre_and_normalise(cohort.embeddings, cohort.centre).astype(np.float32)
    budget = settings.budget(device)

    def multiply_in_threads() -> None:
        budget.over_blocks(len(directions), 128, lambda rows: directions[rows] @ members.T)

    def multiply_by_blas() -> None:
        with threadpool_limits(budget.threads, user_api="blas"):
            for rows in row_blocks(len(directions), 2048):
                directions[rows] @ members.T

    def statistics() -> None:
        cohort_statistics(
            store.embeddings,
            cohort.embeddings,
            settings.top_n,
            centre=cohort.centre,
            budget=budget,
        )

    def full_sort() -> None:
        def sort(rows: slice) -> None:
            highest = np.sort(directions[rows] @ members.T, axis=1)[:, -settings.top_n :]
            highest.mean(axis=1), highest.std(axis=1, ddof=1)

        budget.over_blocks(SORTED_UTTERANCES, 128, sort)

    ways = {
        "products, blocks over threads": multiply_in_threads,
        "products, threads of the BLAS": multiply_by_blas,
        "cohort statistics": statistics,
        f"full sort, from {SORTED_UTTERANCES:,} utterances": full_sort,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    seconds = {name: median(times) for name, times in taken.items()}
    *_, sort = ways
    seconds[sort] *= len(directions) / SORTED_UTTERANCES
    bound = min(list(seconds.values())[:2])
    for name, value in seconds.items():
        say(f"  {name:40} {value:8.2f} s {value / bound:8.2f} x the products")


def measure_chain(
    trials: pd.DataFrame, store: EmbeddingStore, cohort_store: EmbeddingStore, cohort: Cohort, device: str
) -> tuple[pd.DataFrame, float]:
    """All scorings and their metrics; returns the scores and the seconds that all took."""
    with peak_memory() as peak:
        start = time.perf_counter()
        calibration, fitted = timed(
            "scorings fitted",
            fit_scorings,
            cohort_store,
            cohort_store,
            cohort,
            NO_VALIDATION,
            PUBLISHED,
            0,
            device,
        )
        scores = timed("scores", score_trials, trials, store, cohort, calibration, fitted, PUBLISHED, device)
        rates = timed("metrics", measure_rates, scores, calibration, store.utterances)
        seconds = time.perf_counter() - start
    for name, row in rates.items():
        say(f"    {name:10} EER % " + ", ".join(f"{scoring} {eer:.3f}" for scoring, eer in row.items()))
    say(f"  {'whole chain':40} {seconds:8.2f} s, at most {peak}")
    return scores, seconds


def measure_rates(
    scores: pd.DataFrame, calibration: Mapping[str, Any], utterances: pd.DataFrame
) -> dict[str, dict[str, float]]:
    """Error rates, costs and calibration of every list and scoring; the error rates are returned."""
    without_intervals = ScoreSettings(bootstrap_resamples=0)
    metrics = compute_metrics(scores, Calibration.from_dict(calibration), utterances, without_intervals)
    return {
        name: {scoring: values["eer"] for scoring, values in scorings.items()}
        for name, scorings in metrics.items()
    }


def compare_one_by_one(
    scores: pd.DataFrame, store: EmbeddingStore, cohort: Cohort, settings: ScoreSettings, seconds: float
) -> None:
    """One trial after another, extrapolated from a sample: as published, and with nothing done twice.

    The published code takes the cohort's lengths anew in every cosine, and computes the normalised score once
    for AS-norm, once for QMF and once for each trial that QMF is fitted on.
    """
    centred = torch.from_numpy((cohort.embeddings - cohort.centre).astype(np.float32))
    directions = functional.normalize(centred)
    sample = scores.sample(SAMPLED_TRIALS, random_state=0)
    seconds_of_row = store.utterances["duration_seconds"].to_numpy()
    rows = np.stack([store.rows_of(sample[side]) for side in ("enroll_id", "test_id")], axis=1)
    centre = torch.from_numpy(np.asarray(cohort.centre, dtype=np.float32))

    def normalised(row: Array, against: Callable[[Tensor], Tensor]) -> float:
        enroll, test = torch.from_numpy(store.embeddings[row]) - centre
        cosine = functional.cosine_similarity(enroll, test, dim=0)
        highest = [against(side).topk(settings.top_n).values for side in (enroll, test)]
        return float(sum((cosine - kept.mean()) / kept.std() for kept in highest) / 2)

    def qualities(row: Array) -> None:
        raw = store.embeddings[row]
        np.log(seconds_of_row[row]), np.linalg.norm(raw, axis=1), np.abs(raw).sum(axis=1), raw.std(axis=1)

    def as_published(row: Array) -> float:
        return normalised(row, lambda side: functional.cosine_similarity(side[None], centred))

    def once(row: Array) -> float:
        return normalised(row, lambda side: directions @ functional.normalize(side, dim=0))

    def each(work: Callable[[Array], Any]) -> float:
        start = time.perf_counter()
        for row in rows:
            work(row)
        return (time.perf_counter() - start) / len(rows)

    of_trial = {"as published": each(as_published), "nothing twice": each(once), "qualities": each(qualities)}
    num_trials = len(scores)
    published = of_trial["as published"] * (2 * num_trials + settings.calibration_trials)
    least = of_trial["nothing twice"] * (num_trials + settings.calibration_trials)
    of_qualities = of_trial["qualities"] * (num_trials + settings.calibration_trials)
    for name, extrapolated in (("as published", published), ("nothing twice", least)):
        whole = extrapolated + of_qualities
        say(f"  {f'one by one, {name}':40} {whole:8.0f} s, {whole / seconds:.0f} x the whole chain")
    difference = np.abs(sample["as_norm"] - [as_published(row) for row in rows]).max()
    say(f"    extrapolated from {len(rows)} trials; AS-norm scores differ by {difference:.0e}")


def measure_bootstrap(scores: pd.DataFrame) -> None:
    """Intervals of every list and scoring."""

    def bootstrap() -> None:
        for _, rows in scores.groupby("trial_list", sort=False, observed=True):
            speakers = [rows[side].astype(str).str[2:7].astype(int) for side in ("enroll_id", "test_id")]
            for scoring in SCORINGS:
                in_order = sort_trials(rows[scoring], rows["label"])
                equal_error_rate_interval(in_order, *(side.to_numpy() for side in speakers))

    timed("bootstrap", bootstrap)


def measure_large(folder: Path, width: int, device: str) -> None:
    """Time and memory at three sizes."""
    cohort_store = make_store(
        folder / "cohort", spread(LARGE_COHORT_UTTERANCES, VOX2_SPEAKERS), width, seed=2
    )
    cohort = summarise_cohort(cohort_store, cohort_store, PUBLISHED)
    calibration, fitted = fit_scorings(
        cohort_store, cohort_store, cohort, NO_VALIDATION, PUBLISHED, 0, device
    )
    for num_utterances, num_trials in LARGE:
        say(f"\nwidth {width}: {num_trials:,} trials of {num_utterances:,} utterances")
        make_store(folder / "store", spread(num_utterances, num_utterances // 100), width, seed=1)
        store = EmbeddingStore.read(folder / "store")
        trials = draw_trials(store, "large", num_trials, num_utterances)
        start = time.perf_counter()
        with peak_memory() as scoring_peak:
            trials = timed(
                "scores", score_trials, trials, store, cohort, calibration, fitted, PUBLISHED, device
            )
        scored = time.perf_counter() - start
        utterances = store.utterances[["utterance_id", "speaker_id"]]
        del store  # measuring reads scores and speakers alone
        with peak_memory() as metrics_peak:
            timed("metrics", measure_rates, trials, calibration, utterances)
        measured = time.perf_counter() - start - scored
        for name, seconds, peak in (("scores", scored, scoring_peak), ("metrics", measured, metrics_peak)):
            per_million = 1e6 * seconds / num_trials
            say(f"  {name:40} {per_million:8.2f} s a million trials, at most {peak}")


def spread(num_utterances: int, num_speakers: int) -> list[int]:
    """Numbers of utterances of the speakers, as even as can be."""
    return [len(part) for part in np.array_split(np.arange(num_utterances), num_speakers)]


def make_store(folder: Path, counts: Sequence[int], width: int, seed: int) -> EmbeddingStore:
    """Write a store, in a process of its own whose memory does not count, and map it."""
    writer = get_context("spawn").Process(target=write_store, args=(folder, counts, width, seed))
    writer.start()
    writer.join()
    return EmbeddingStore.read(folder)


def write_store(folder: Path, counts: Sequence[int], width: int, seed: int) -> None:
    """Write a store in blocks."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(len(counts)), counts)
    centres = 0.5 + rng.standard_normal((len(counts), width), dtype=np.float32)
    seconds = rng.uniform(4, 20, len(speakers))
    names = pd.Series(speakers).map("id{:05}".format)
    utterances = pd.DataFrame(
        {
            "utterance_id": names + pd.Series(np.arange(len(speakers))).map("/session/{:07}.wav".format),
            "speaker_id": names,
            "session_id": "session",
            "subset": "vox1-dev",
            "path": "",
            "num_samples": (16_000 * seconds).astype(int),
            "duration_seconds": seconds,
        }
    )
    EmbeddingStore(np.zeros((0, width), np.float32), utterances.iloc[:0]).write(folder)
    utterances.to_parquet(folder / "utterances.parquet", index=False)
    mapped = np.lib.format.open_memmap(
        folder / "embeddings.npy", mode="w+", dtype=np.float32, shape=(len(speakers), width)
    )
    for rows in row_blocks(len(speakers), 65_536):
        noise = rng.standard_normal((rows.stop - rows.start, width), dtype=np.float32)
        mapped[rows] = centres[speakers[rows]] + NOISE * noise
    mapped.flush()


def draw_trials(store: EmbeddingStore, trial_list: str, num_trials: int, num_utterances: int) -> pd.DataFrame:
    """Trials between the first utterances of a store, half of them targets."""
    rng = np.random.default_rng(num_trials)
    speakers = pd.factorize(store.utterances["speaker_id"])[0][:num_utterances]
    firsts = np.searchsorted(speakers, np.arange(speakers[-1] + 2))
    label = (np.arange(num_trials) % 2).astype(np.int8)
    enroll = rng.integers(num_utterances, size=num_trials, dtype=np.int32)
    own = rng.integers(firsts[speakers[enroll]], firsts[speakers[enroll] + 1], dtype=np.int32)
    test = np.where(label, own, rng.integers(num_utterances, size=num_trials, dtype=np.int32))
    ids = store.utterances["utterance_id"]
    return pd.DataFrame(
        {
            "trial_list": pd.Categorical.from_codes(np.zeros(num_trials, np.int8), [trial_list]),
            "label": label,
            "enroll_id": pd.Categorical.from_codes(enroll, ids),
            "test_id": pd.Categorical.from_codes(test, ids),
        }
    )


def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
    """Do the work and print how long it took."""
    start = time.perf_counter()
    result = work(*given)
    say(f"  {name:40} {time.perf_counter() - start:8.2f} s")
    return result


@dataclass
class PeakMemory:
    """Highest resident memory seen, in kB, by what /proc calls it."""

    seen: dict[str, int] = field(default_factory=lambda: {"RssAnon": 0, "VmRSS": 0})

    def look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        for line in lines:
            name, _, value = line.partition(":")
            if name in self.seen:
                self.seen[name] = max(self.seen[name], int(value.split()[0]))

    def __str__(self) -> str:
        own, all_of_it = (1024 * self.seen[name] / 1e9 for name in ("RssAnon", "VmRSS"))
        return f"{own:.2f} GB, {all_of_it:.2f} GB with mapped file pages"


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Watch the process's memory, twenty times a second (Linux)."""
    peak, over = PeakMemory(), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
