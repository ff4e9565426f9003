"""Node that trains the systems of a comparison."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speaker_verification.common.distributed import is_started_by_torchrun
from speaker_verification.common.errors import DataError, ParameterError, listed
from speaker_verification.common.progress import busy, duration_text
from speaker_verification.config.compare_settings import CompareSettings
from speaker_verification.config.planned_runs import PlannedComparison
from speaker_verification.pipelines.compare.child_process import failure_of, run_to_end
from speaker_verification.pipelines.compare.training_runs import (
    TrainingRun,
    changed_parameters,
    digest_of,
)
from speaker_verification.pipelines.compare_runs.evaluations import EvaluationAddress

logger = logging.getLogger(__name__)


def train_systems(
    planned_comparison: PlannedComparison,
    compare: CompareSettings,
    workspace: Path,
    utterances: pd.DataFrame,
    training_utterances: pd.DataFrame,
    validation_utterances: pd.DataFrame,
    validation_trials: pd.DataFrame,
    trials: pd.DataFrame,
    noise_clips: pd.DataFrame,
    rirs: pd.DataFrame,
) -> tuple[list[EvaluationAddress], pd.DataFrame]:
    """Train and evaluate each system with each seed, one after the other, as far as that is not done.

    A run that fails does not stop the others.

    Returns:
        Addresses of the evaluations, and a table of what each training has cost.

    Raises:
        DataError: runs have failed; all of them are named with the end of their logs.
        ParameterError: this process cannot wait for others as it has been started.
    """
    _refuse_other_start()
    tables = {
        "utterances": utterances,
        "training_utterances": training_utterances,
        "validation_utterances": validation_utterances,
        "validation_trials": validation_trials,
        "trials": trials,
        "noise_clips": noise_clips,
        "rirs": rirs,
    }
    digests = {name: digest_of(table) for name, table in tables.items()}
    runs = [
        TrainingRun.of(plan, workspace, digests, planned_comparison.surroundings)
        for plan in planned_comparison.runs
    ]
    _train_all(runs, compare.num_processes)
    costs = pd.DataFrame([run.cost() for run in runs])
    return [EvaluationAddress(run.folder, None, run.plan.system) for run in runs], costs


def _refuse_other_start() -> None:
    """Refuse to start processes from one that torchrun or a runner with threads has started."""
    if is_started_by_torchrun():
        raise ParameterError(
            "compare starts its trainings itself: run it without torchrun, and set compare.num_processes"
        )
    if threading.current_thread() is not threading.main_thread():
        raise ParameterError(
            "compare needs the SequentialRunner, in which signals reach it: leave out --runner"
        )


def _train_all(runs: Sequence[TrainingRun], num_processes: int) -> None:
    done, missing = [run for run in runs if run.is_finished()], [run for run in runs if not run.is_finished()]
    workspace = runs[0].surroundings.portable(runs[0].folder.parents[1])
    logger.info(
        "%d of %d runs are done; each has a folder in %s, with its log in run.log",
        *(len(done), len(runs), workspace),
    )
    if changed := changed_parameters(missing):
        logger.info("earlier runs stay in %s, made with other values of %s", workspace, listed(changed))
    failures: list[str] = []
    while missing:
        run = missing.pop(0)
        place = f"({runs.index(run) + 1} of {len(runs)})"
        failure = _train(run, place, num_processes)
        if failure is not None:
            failures.append(f"{run.plan.name}: {failure}")
            logger.error("%s %s failed: %s", run.plan.name, place, failure)
            continue
        done.append(run)
        logger.info(
            "%s %s  EER %s, %s%s",
            *(run.plan.name, place, run.first_rate(), duration_text(run.seconds)),
            f"; about {duration_text(_seconds_left(done, missing))} left" if missing else "",
        )
    if failures:
        raise DataError(
            f"compare: {len(failures)} of {len(runs)} runs failed, and the others are done: "
            f"{listed(failures, '; ')}. Mend what the logs tell and run again, or leave a system out by "
            "compare.only; no run that is done is trained again"
        )


def _train(run: TrainingRun, place: str, num_processes: int) -> str | None:
    """Train and evaluate a run, or resume it; the reason where that fails."""
    run.prepare()
    before, started = run.logged(), time.monotonic()
    try:
        with busy(f"{run.plan.name} {place}"):
            code = run_to_end(run.command(num_processes), run.surroundings.project, run.log)
    finally:
        run.add_seconds(time.monotonic() - started)
    if code == 0 and run.is_finished():
        return None
    return f"{failure_of(code, run.logged()[len(before) :])}; log: {run.surroundings.portable(run.log)}"


def _seconds_left(done: Sequence[TrainingRun], missing: Sequence[TrainingRun]) -> float:
    """Time in s that the missing runs take, by what those of their system, or else all, have taken."""
    taken = pd.DataFrame([(run.plan.system, run.seconds) for run in done], columns=["system", "seconds"])
    means, mean = taken.groupby("system")["seconds"].mean(), taken["seconds"].mean()
    return float(sum(means.get(run.plan.system, mean) for run in missing))
