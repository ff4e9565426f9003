"""Nodes that measure scores from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.scoring.score_files import read_score_file
from speaker_verification.scoring.settings import MeasureSettings, ScoreSettings
from speaker_verification.scoring.summary import Metrics, format_table, measure_trials

logger = logging.getLogger(__name__)


def measure_score_file(measure: Mapping[str, Any], score: Mapping[str, Any]) -> Metrics:
    """Measure the scores of a text file and log the error rates as a table.

    Args:
        measure: parameters of `MeasureSettings`.
        score: parameters of `ScoreSettings`, for the operating points and the interval.

    Returns:
        {file's name: {"score": values}}.

    Raises:
        ParameterError: no file is named.
        DataError: the file is missing, malformed, without labels, or of one class only.
    """
    settings = MeasureSettings.parse(measure, "measure")
    if settings.score_file is None:
        raise ParameterError("no scores to measure: set measure.score_file to a text file of scores")
    file = Path(settings.score_file)
    trials = read_score_file(file)
    if "label" not in trials:
        raise DataError(f"{file}, line 1: no label; end each line with target or nontarget")
    scores = {"score": trials["score"].to_numpy()}
    llrs_of = (lambda _, values: values) if settings.calibrated else None
    metrics = {file.stem: measure_trials(trials, scores, llrs_of, ScoreSettings.parse(score, "score"))}
    logger.info("Results\n%s", format_table(metrics))
    return metrics
