"""Nodes that measure scores from elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.score_files import (
    read_score_file,
    read_speaker_file,
    refuse_unknown_speakers,
)
from speaker_verification.scoring.settings import MeasureSettings, ScoreSettings
from speaker_verification.scoring.summary import Metrics, format_table, metrics_of_trials
from speaker_verification.scoring.trial_speakers import SpeakerSearch, find_speakers, judge_given_speakers

logger = logging.getLogger(__name__)


def measure_score_file(measure: MeasureSettings, score: ScoreSettings) -> Metrics:
    """Measure the scores of a text file and log the error rates as a table.

    Args:
        measure: settings that name the score file and its speakers.
        score: settings of the operating points and the interval.

    Returns:
        {file's name: {"score": values}}.

    Raises:
        ParameterError: no file is named.
        DataError: the file is missing, malformed, without labels, or of one class only; the file of speakers
            is missing, malformed, or lacks an utterance.
    """
    if measure.score_file is None:
        raise ParameterError("no scores to measure: set measure.score_file to a text file of scores")
    file = Path(measure.score_file)
    trials = read_score_file(file)
    if "label" not in trials:
        raise DataError(f"{file}, line 1: no label; end each line with target or nontarget")
    found = _speakers_of(file, trials, measure)
    scores = {"score": trials["score"].to_numpy()}
    llrs_of = (lambda _, values: values) if measure.calibrated else None
    measured = metrics_of_trials(trials["label"].to_numpy(), found.speakers, scores, llrs_of, score)
    if found.num_contradicting:
        measured["score"]["num_contradicting"] = found.num_contradicting
    if found.speakers is None:
        measured["score"]["no_interval"] = found.note
    metrics = {file.stem: measured}
    logger.info("Results\n%s", format_table(metrics))
    return metrics


def _speakers_of(file: Path, trials: pd.DataFrame, measure: MeasureSettings) -> SpeakerSearch:
    """The speakers of a file's trials, given or found, with a warning where they are not beyond doubt."""
    if measure.speakers is None:
        found = find_speakers(trials)
        remedy = "name them by measure.speakers"
    else:
        given = Path(measure.speakers)
        speakers = read_speaker_file(given)
        refuse_unknown_speakers(file, trials, speakers, given)
        found = judge_given_speakers(trials, speakers)
        remedy = f"mend the labels, or {given} (measure.speakers)"
    if found.speakers is None:
        logger.warning("%s: no interval: %s; %s", file, found.note, remedy)
    else:
        level = logging.WARNING if found.num_contradicting else logging.INFO
        logger.log(level, "%s: %s", file, found.note)
    return found
