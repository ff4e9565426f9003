"""Scores of trials from numbers kept of each side, and the exact search of one side among many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.settings_base import number_of
from speaker_verification.scoring.blocks import ComputeBudget, row_blocks
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.centring import centre_and_normalise, check_width
from speaker_verification.scoring.cohort import Cohort, Statistics, cohort_statistics
from speaker_verification.scoring.scorings.as_norm import AsNorm, as_norm
from speaker_verification.scoring.scorings.base import Fitted, SharedSettings
from speaker_verification.scoring.scorings.cosine import Cosine
from speaker_verification.scoring.scorings.qmf import Qmf, qmf_ratios, quality_features

ROWS_PER_BLOCK = 16_384  # of which float64 scores stay in a core's cache
NUM_QUALITY = 4
_UNIT_ROUNDOFF = np.finfo(np.float32).eps / 2

Rows = slice | np.ndarray


@dataclass(frozen=True, eq=False)
class Sides:
    """Everything that a score needs of each of N sides of trials: utterances, or models of speakers.

    Attributes:
        directions: (N, E) centred embeddings of length 1; float32 where they are kept; may be a memory map.
        statistics: mean and standard deviation (N,) of each side's top-n cohort cosines.
        quality: (N, 4) quality features of the raw embeddings.
    """

    directions: np.ndarray
    statistics: Statistics
    quality: np.ndarray

    def __len__(self) -> int:
        return len(self.directions)

    def at(self, rows: Rows) -> Sides:
        """Some of the sides."""
        mean, std = self.statistics
        return Sides(self.directions[rows], (mean[rows], std[rows]), self.quality[rows])


@dataclass(frozen=True, eq=False)
class SideScorer:
    """Calibrated scoring of trials by their cosine and numbers of each side: cosine, AS-norm or QMF.

    Attributes:
        cohort: cohort that embeddings are centred on and scores are normalised against.
        settings: parameters of the scorings.
        calibration: maps to log-likelihood ratios; its `llr` names the scoring.
        fitted: arrays that the scorings learned, by scoring.
        has_crops: whether recordings have embeddings of crops too.

    Raises:
        ParameterError: the scoring needs more of a trial than the cosine of the whole recordings.
        DataError: the scoring was not fitted.
    """

    cohort: Cohort
    settings: SharedSettings
    calibration: Calibration
    fitted: Mapping[str, Fitted]
    has_crops: bool = False

    def __post_init__(self) -> None:
        known = (Cosine.name, AsNorm.name, Qmf.name)
        if self.scoring not in known:
            raise ParameterError(
                f"the log-likelihood ratios are of the scoring '{self.scoring}', which needs both embeddings "
                f"of each trial: one recording is searched among many by {', '.join(known)}; set score.llr "
                "to one of them"
            )
        if self.scoring == Cosine.name and self.has_crops:
            raise ParameterError(
                "the log-likelihood ratios are of the cosine of recordings and of their crops, and one "
                "recording is searched among many by whole recordings: set embed.num_crops to 0, or "
                "score.llr to as_norm or qmf"
            )
        if self.scoring not in self.calibration.scorings or self.scoring not in self.fitted:
            raise DataError(f"the scoring '{self.scoring}' was not fitted: run the score pipeline anew")

    @property
    def scoring(self) -> str:
        """Name of the scoring."""
        return self.calibration.llr

    @property
    def width(self) -> int:
        """Width E of the embeddings."""
        return len(self.cohort.centre)

    @cached_property
    def _cohort_directions(self) -> np.ndarray:
        return self.cohort.directions()

    def describe(
        self, embeddings: np.ndarray, duration_seconds: npt.ArrayLike, budget: ComputeBudget | None = None
    ) -> Sides:
        """Sides of raw embeddings.

        Args:
            embeddings: (N, E) as the model gives them.
            duration_seconds: (N,).
            budget: memory, threads and device of the computation.

        Raises:
            DataError: the width is another, or an embedding has no direction.
        """
        check_width(embeddings, self.width)
        directions = centre_and_normalise(embeddings, self.cohort.centre)
        statistics = np.zeros(len(embeddings)), np.ones(len(embeddings))
        quality = np.zeros((len(embeddings), NUM_QUALITY))
        if self.scoring != Cosine.name:
            statistics = cohort_statistics(
                embeddings,
                self._cohort_directions,
                number_of(self.settings.top_n, len(self._cohort_directions)),
                centre=self.cohort.centre,
                deviation=self.settings.deviation,
                budget=budget,
                cohort_is_normalised=True,
            )
        if self.scoring == Qmf.name:
            quality = quality_features(embeddings, duration_seconds, budget)
        return Sides(directions, statistics, quality)

    def log_likelihood_ratios(self, cosines: np.ndarray, enroll: Sides, test: Sides) -> np.ndarray:
        """Natural log-likelihood ratios of trials, float64 (trials,).

        Args:
            cosines: (trials,) of the directions.
            enroll: enrolment side of each trial.
            test: test side of each trial, or one that all trials share.
        """
        scores = cosines
        if self.scoring != Cosine.name:
            scores = as_norm(scores, enroll.statistics, test.statistics)
        if self.scoring == Qmf.name:
            quality = np.broadcast_to(test.quality, (len(cosines), NUM_QUALITY))
            scores = qmf_ratios(scores, enroll.quality, quality, self.fitted[Qmf.name])
        return self.calibration.log_likelihood_ratio(self.scoring, scores)

    def lines(self, enroll: Sides) -> Lines:
        """Log-likelihood ratios of enrolled sides as functions of their cosine with a test side."""
        return Lines(enroll.directions, *self._line(enroll, _REFERENCE))

    def terms_of(self, test: Sides) -> tuple[float, float]:
        """Terms that one test side adds to the intercepts and the slopes of `lines`."""
        with_test, with_reference = (self._line(_REFERENCE, side) for side in (test, _REFERENCE))
        intercept, slope = (own - other for own, other in zip(with_test, with_reference, strict=True))
        return intercept.item(), slope.item()

    def _line(self, enroll: Sides, test: Sides) -> tuple[np.ndarray, np.ndarray]:
        """Intercepts (N,) and slopes (N,) of the log-likelihood ratios over the cosine."""
        ends = (np.zeros(len(enroll)), np.ones(len(enroll)))
        intercepts, at_one = (self.log_likelihood_ratios(cosines, enroll, test) for cosines in ends)
        return intercepts, at_one - intercepts


# In place of either side, where only the other one counts.
_REFERENCE = Sides(np.zeros((1, 1)), (np.zeros(1), np.ones(1)), np.zeros((1, NUM_QUALITY)))


@dataclass(frozen=True, eq=False)
class Lines:
    """Log-likelihood ratios of N enrolled sides as functions of the cosine with a test side.

    With each of the scorings the ratio is affine in the cosine. Its intercept and slope are sums of a term of
    the enrolled side and of one of the test side, which is a reference here.

    Attributes:
        directions: float32 (N, E); may be a memory map.
        intercepts: (N,).
        slopes: (N,).
    """

    directions: np.ndarray
    intercepts: np.ndarray
    slopes: np.ndarray


def find_highest(
    parts: Sequence[Lines], counted: Sequence[np.ndarray], test: Sides, scorer: SideScorer, num_highest: int
) -> list[np.ndarray]:
    """Rows of the enrolled sides that may have the highest log-likelihood ratios with a test side.

    All are gone through, block by block, with cosines in float32: a product of two directions errs by
    (E + 2) 2^-24 at most. Rows whose ratio lies that near to the last place are among those returned, so that
    their exact ratios can decide.

    Args:
        parts: enrolled sides, in one or several arrays.
        counted: for each part bool (N,), which of its sides count.
        test: one side.
        scorer: calibrated scoring.
        num_highest: how many are looked for.

    Returns:
        rows: (K,) for each part.
    """
    direction = test.directions[0].astype(np.float32)  # (E,)
    intercept, slope = scorer.terms_of(test)
    steepest = max((np.abs(part.slopes + slope).max() for part in parts if len(part.slopes)), default=0.0)
    slack = 2 * steepest * (len(direction) + 2) * _UNIT_ROUNDOFF
    lowest = -np.inf
    kept: list[tuple[int, np.ndarray, np.ndarray]] = []
    for number, (part, counts) in enumerate(zip(parts, counted, strict=True)):
        for rows in row_blocks(len(part.slopes), ROWS_PER_BLOCK):
            ratios = (part.slopes[rows] + slope) * (part.directions[rows] @ direction)  # (block,)
            ratios += part.intercepts[rows]
            ratios += intercept
            near = np.flatnonzero((ratios >= lowest) & counts[rows])
            if not len(near):
                continue
            kept.append((number, rows.start + near, ratios[near]))
            found = np.concatenate([ratios for _, _, ratios in kept])
            if len(found) > num_highest:
                lowest = np.partition(found, -num_highest)[-num_highest] - slack
                kept = [(part, at[r >= lowest], r[r >= lowest]) for part, at, r in kept]
    places: list[list[np.ndarray]] = [[np.empty(0, dtype=int)] for _ in parts]
    for number, at, _ in kept:
        places[number].append(at)
    return [np.concatenate(rows) for rows in places]
