"""Calibration trials, drawn between the utterances of a cohort or calibration set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class CalibrationTrials:
    """Trials between rows of the calibration set; arrays (trials,)."""

    enroll_rows: np.ndarray
    test_rows: np.ndarray
    labels: np.ndarray  # 1 target, 0 non-target


def calibration_trials(
    utterances: pd.DataFrame, validation: pd.DataFrame, settings: ScoreSettings, seed: int
) -> CalibrationTrials:
    """Draw the trials that calibrations are fitted on, among all speakers of the calibration set or some.

    Args:
        utterances: the calibration set, UTTERANCES schema; often the cohort set.
        validation: utterances of the held-out training speakers, likewise.
        settings: of the calibration.
        seed: the same seed draws the same trials.

    Raises:
        DataError: the validation speakers are asked for and are not in the set, or no trials of both classes
            can be drawn.
    """
    speaker_ids, num_trials = utterances["speaker_id"], settings.calibration_trials
    session_ids = utterances["session_id"] if settings.calibration_sessions == "across" else None
    if settings.calibration_speakers == "cohort":
        return draw_calibration_trials(speaker_ids, num_trials, seed, session_ids)
    rows = np.flatnonzero(utterances["utterance_id"].isin(validation["utterance_id"]))
    if not len(rows):
        raise DataError(
            "parameter 'score.calibration_speakers' is 'validation', but the calibration set holds none of "
            "these speakers: name prepare.training_set by embed.calibration_set or, where that is null, by "
            "embed.cohort_set, or take 'cohort'"
        )
    sessions = None if session_ids is None else session_ids.iloc[rows]
    drawn = draw_calibration_trials(speaker_ids.iloc[rows], num_trials, seed, sessions)
    return replace(drawn, enroll_rows=rows[drawn.enroll_rows], test_rows=rows[drawn.test_rows])


def draw_calibration_trials(
    speaker_ids: pd.Series, num_trials: int, seed: int, session_ids: pd.Series | None = None
) -> CalibrationTrials:
    """Draw trials between the utterances of a set, the first half target, the others non-target.

    A target trial takes a speaker evenly among those with two utterances or more, and two different
    utterances of it; a non-target trial takes two different speakers and one utterance of each.

    Args:
        speaker_ids: (N,) speaker of each utterance.
        num_trials: even.
        seed: the same seed draws the same trials.
        session_ids: (N,) session of each utterance, for target trials between two sessions; None: any.

    Raises:
        DataError: there are fewer than two speakers, or none has two utterances, of two sessions if asked.
    """
    speaker_of_row, speakers = pd.factorize(speaker_ids, sort=True)
    counts = np.bincount(speaker_of_row, minlength=len(speakers))
    firsts = np.cumsum(counts) - counts  # of each speaker, in the order below
    sessions = np.arange(len(speaker_ids)) if session_ids is None else np.asarray(session_ids)
    of_one_session = pd.DataFrame({"speaker": speaker_of_row, "session": sessions}).groupby(
        ["speaker", "session"]
    )
    session_of_row = of_one_session.ngroup().to_numpy()
    order = np.argsort(session_of_row, kind="stable")  # rows by speaker, and of each by session
    session = session_of_row[order]
    size = np.bincount(session)[session]  # of each row's session
    begin = np.searchsorted(session, session)
    repeated = np.unique(speaker_of_row[order][size < counts[speaker_of_row[order]]])
    if len(speakers) < 2 or not len(repeated):
        what = "utterances" if session_ids is None else "sessions"
        raise DataError(
            f"the calibration set has {len(speakers)} speakers, {len(repeated)} of them with two {what}: "
            f"calibration needs two speakers and one with two {what}"
        )

    rng = np.random.default_rng([seed, num_trials])
    num_targets = num_trials // 2
    num_nontargets = num_trials - num_targets
    speaker = rng.choice(repeated, num_targets)
    one = firsts[speaker] + rng.integers(counts[speaker])
    other = firsts[speaker] + rng.integers(counts[speaker] - size[one])
    other += np.where(other >= begin[one], size[one], 0)  # over the session of `one`
    speaker_one, speaker_other = _two_different(rng, np.full(num_nontargets, len(speakers)))
    one_rows = firsts[speaker_one] + rng.integers(counts[speaker_one])
    other_rows = firsts[speaker_other] + rng.integers(counts[speaker_other])
    return CalibrationTrials(
        enroll_rows=order[np.concatenate([one, one_rows])],
        test_rows=order[np.concatenate([other, other_rows])],
        labels=np.repeat([1, 0], [num_targets, num_nontargets]),
    )


def distinct_trials(drawn: CalibrationTrials) -> CalibrationTrials:
    """The trials without those of two utterances that an earlier trial has paired."""
    pairs = np.sort(np.stack([drawn.enroll_rows, drawn.test_rows], axis=1), axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    rows = np.sort(first)
    return CalibrationTrials(drawn.enroll_rows[rows], drawn.test_rows[rows], drawn.labels[rows])


def _two_different(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two different numbers below each size, all pairs as likely."""
    one = rng.integers(sizes)
    other = rng.integers(sizes - 1)
    return one, other + (other >= one)
