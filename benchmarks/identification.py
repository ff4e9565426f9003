"""Searching a recording among a million enrolled speakers, beside plain NumPy and faiss's flat index.

    OMP_NUM_THREADS=1 python -m benchmarks.identification [--speakers 1000000] [--width 192]

All ways answer the same queries in turns, on one thread; times are medians, by the clock and of the
processor. Plain NumPy computes all scores and sorts them. faiss, where it is installed (`pip install
faiss-cpu`), searches by cosine alone: AS-norm is no inner product of two embeddings. The store maps its
files: what it holds in memory itself is told apart from their pages, which the system takes back when it
needs them. Embeddings are random, clustered by speaker.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.timing import say
from threadpoolctl import threadpool_limits

from speaker_verification.common.tables import UTTERANCES
from speaker_verification.deployment.enrolment_parts import RECORDINGS_PER_PART
from speaker_verification.deployment.enrolment_store import EnrolledRecording, Enrolment, EnrolmentStore
from speaker_verification.deployment.identification import identify
from speaker_verification.scoring.blocks import row_blocks
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.embeddings import EmbeddingStore
from speaker_verification.scoring.evaluation import fit_scorings
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.settings import ScoreSettings
from speaker_verification.scoring.sides import SideScorer

COHORT_SPEAKERS, UTTERANCES_EACH = 5_994, 4
NOISE = 1.6  # of an utterance, where speakers have deviation 1
POINT = OperatingPoint(0.5)
FINGERPRINT = "0" * 64
SCORINGS = ("cosine", "as_norm", "qmf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--speakers", type=int, default=1_000_000, help="enrolled")
    parser.add_argument("--width", type=int, default=192, help="of the embeddings")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary one")
    arguments = parser.parse_args()
    with threadpool_limits(1), tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder) / "store", arguments.speakers, arguments.width, arguments.queries)


def measure(folder: Path, num_speakers: int, width: int, num_queries: int) -> None:
    """Enrolment, and the search with each scoring."""
    scorer = fitted_scorer(width)
    started = time.perf_counter()
    enrol(folder, scorer, num_speakers, width)
    say(f"{num_speakers:,} speakers x {width}: enrolled in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    store = EnrolmentStore.open(folder, FINGERPRINT, scorer)
    new = speakers_of(slice(num_speakers, num_speakers + 1), width)
    store.add("one more", new, [recording(num_speakers)])
    say(f"store opened and one more speaker enrolled in {1000 * (time.perf_counter() - started):.0f} ms")
    store.remove("one more")
    del store
    for llr in SCORINGS:
        calibration = replace(scorer.calibration, llr=llr)
        search(folder, replace(scorer, calibration=calibration), num_queries, llr)


def first_search(folder: Path, scorer: SideScorer, query: np.ndarray) -> tuple[float, float, float, float]:
    """Seconds of opening a store and of its first search, and megabytes: its own, and mapped files."""
    own, mapped = resident_megabytes()
    started = time.perf_counter()
    store = EnrolmentStore.open(folder, FINGERPRINT, scorer)
    opened = time.perf_counter()
    identify(query, store, POINT, seconds=5.0)
    ended, after = time.perf_counter(), resident_megabytes()
    return opened - started, ended - opened, after[0] - own, after[1] - mapped


def search(folder: Path, scorer: SideScorer, num_queries: int, llr: str) -> None:
    """Memory and time of the search with one scoring."""
    queries = drawn(np.random.default_rng(2), speakers_of(slice(0, num_queries), scorer.width))
    # In a process of its own, whose memory no enrolment has grown.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        opening, first, own, mapped = pool.submit(first_search, folder, scorer, queries[0]).result()
    say(
        f"\n{llr}: opened in {opening:.2f} s, first search in {first:.2f} s; memory {own:.0f} MB of its own, "
        f"{mapped:.0f} MB of mapped files"
    )
    store = EnrolmentStore.open(folder, FINGERPRINT, scorer)
    identify(queries[0], store, POINT, seconds=5.0)
    ways = ways_of(store, scorer, llr)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    answers: dict[str, list[list[str]]] = {name: [] for name in ways}
    for query in queries:
        for name, way in ways.items():
            started = time.perf_counter(), time.process_time()
            answers[name].append(way(query))
            ended = time.perf_counter(), time.process_time()
            seconds[name].append((ended[0] - started[0], ended[1] - started[1]))
    reference = next(iter(ways))
    for name, times in seconds.items():
        pairs = list(zip(answers[reference], answers[name], strict=True))
        same_first = sum(one[0] == other[0] for one, other in pairs)
        same = sum(one == other for one, other in pairs)
        clock, processor = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        say(
            f"{name:<28} {clock:7.1f} ms a query, {processor:7.1f} ms of the processor, "
            f"top 1 equal {same_first}/{num_queries}, top 10 {same}/{num_queries}"
        )


def ways_of(
    store: EnrolmentStore, scorer: SideScorer, llr: str
) -> dict[str, Callable[[np.ndarray], list[str]]]:
    """Ways to answer a query with ten names."""
    directions = np.concatenate([part.sides.directions for part in store.snapshot.parts])
    means, stds = (
        np.concatenate([part.sides.statistics[place] for part in store.snapshot.parts]) for place in (0, 1)
    )
    quality = np.concatenate([part.sides.quality for part in store.snapshot.parts])
    names = np.concatenate([part.names.to_numpy(zero_copy_only=False) for part in store.snapshot.parts])
    affine = scorer.calibration.scorings[llr].affine

    def by_store(query: np.ndarray) -> list[str]:
        return [candidate.speaker for candidate in identify(query, store, POINT, seconds=5.0).candidates]

    def by_numpy(query: np.ndarray) -> list[str]:
        test = scorer.describe(query[None], [5.0])
        scores = directions @ test.directions[0].astype(np.float32)
        if llr != "cosine":
            (mean,), (std,) = test.statistics
            scores = ((scores - means) / stds + (scores - mean) / std) / 2
        if llr == "qmf":
            log_seconds, *norms, deviation = test.quality[0]
            fitted = scorer.fitted["qmf"]
            weights, rows = fitted["coefficients"], len(scores)
            columns = [scores, quality[:, 0], np.full(rows, log_seconds), quality[:, 1], quality[:, 2]]
            columns += [np.full(rows, norm) for norm in norms]
            columns += [quality[:, 3], np.full(rows, deviation)]
            scores = np.stack(columns, axis=1) @ weights + fitted["intercept"]
        return names[np.argsort(-(affine.slope * scores + affine.offset))[:10]].tolist()

    ways = {"the store": by_store, "plain NumPy, in memory": by_numpy}
    if llr == "cosine" and find_spec("faiss") is None:
        say("faiss is not installed and takes no turns: pip install faiss-cpu")
    elif llr == "cosine":
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(directions.shape[1])
        index.add(directions)

        def by_faiss(query: np.ndarray) -> list[str]:
            direction = centre_and_normalise(query[None], scorer.cohort.centre).astype(np.float32)
            return names[index.search(direction, 10)[1][0]].tolist()

        ways["faiss IndexFlatIP, in memory"] = by_faiss
    return ways


def speakers_of(rows: slice, width: int) -> np.ndarray:
    """Embeddings without noise (rows, width) of some speakers, the same each time."""
    first = rows.start // RECORDINGS_PER_PART * RECORDINGS_PER_PART
    drawn_speakers = np.random.default_rng([3, first]).standard_normal((rows.stop - first, width), np.float32)
    return drawn_speakers[rows.start - first :]


def drawn(rng: np.random.Generator, speakers: np.ndarray) -> np.ndarray:
    """An utterance of each speaker, float32 (N, width)."""
    return speakers + np.float32(NOISE) * rng.standard_normal(speakers.shape, np.float32) + np.float32(0.3)


def recording(number: int) -> EnrolledRecording:
    path = f"/recordings/{number:07}.wav"
    return EnrolledRecording(path, hashlib.sha256(path.encode()).hexdigest(), 2.0 + number % 7)


def enrol(folder: Path, scorer: SideScorer, num_speakers: int, width: int) -> None:
    """Write a store, part by part."""
    store, rng = EnrolmentStore.create(folder, FINGERPRINT, scorer), np.random.default_rng(1)
    for rows in row_blocks(num_speakers, RECORDINGS_PER_PART):
        embeddings = drawn(rng, speakers_of(rows, width))
        numbers = range(rows.start, rows.stop)
        store.add_all(
            Enrolment(f"speaker {number:07}", embedding, [recording(number)])
            for number, embedding in zip(numbers, embeddings, strict=True)
        )


def fitted_scorer(width: int) -> SideScorer:
    """Scoring fitted on as many speakers as VoxCeleb2 has."""
    rng = np.random.default_rng(4)
    numbers = np.repeat(np.arange(COHORT_SPEAKERS), UTTERANCES_EACH)
    speakers = rng.standard_normal((COHORT_SPEAKERS, width), np.float32)
    utterances = pd.DataFrame(dict.fromkeys(UTTERANCES.required, ""), index=numbers).assign(
        speaker_id=[f"id{number:05}" for number in numbers],
        utterance_id=[f"utterance {row}" for row in range(len(numbers))],
        num_samples=80_000,
        duration_seconds=rng.uniform(2, 9, len(numbers)),
    )
    cohort_set = EmbeddingStore(drawn(rng, speakers[numbers]), utterances.reset_index(drop=True))
    settings = ScoreSettings(scorings=SCORINGS)
    cohort = Cohort.of(cohort_set, settings.cohort, settings.centre)
    trials = draw_calibration_trials(cohort_set.utterances["speaker_id"], 10_000, seed=0)
    return SideScorer(cohort, settings, *fit_scorings(cohort_set, cohort, trials, settings))


def resident_megabytes() -> tuple[float, float]:
    """Memory of this process: its own, and pages of mapped files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


if __name__ == "__main__":
    main()
