"""Calibration: from the scores of every scoring to log-likelihood ratios, and to thresholds a person can use.

Fitted on trials between speakers that no trial list holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.errors import DataError
from speaker_verification.scoring.cosine import centre_and_normalise
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.qmf import (
    CalibrationTrials,
    QmfCalibration,
    draw_calibration_trials,
    fit_qmf_calibration,
)
from speaker_verification.scoring.settings import ScoreSettings, Scoring

FORMAT = 1

_RIDGE = 1e-6  # beside a mean of log losses: keeps the slope finite where the classes do not overlap


@dataclass(frozen=True)
class AffineCalibration:
    """Log-likelihood ratio = slope x score + offset."""

    slope: float
    offset: float

    @classmethod
    def fit(cls, scores: npt.ArrayLike, labels: npt.ArrayLike, prior: float = 0.5) -> AffineCalibration:
        """Fit by logistic regression; each class weighs as the prior says, however many trials it has.

        Source: N. Brümmer, J. du Preez, "Application-Independent Evaluation of Speaker Detection", Computer
        Speech and Language 20, 2006.

        Args:
            scores: (trials,).
            labels: (trials,), 1 target, 0 non-target.
            prior: probability of a target trial at which the log-likelihood ratios are to be best.

        Raises:
            DataError: all scores are equal.
        """
        from sklearn.linear_model import LogisticRegression

        values, is_target = np.asarray(scores, dtype=np.float64), np.asarray(labels) == 1
        mean, std = values.mean(), values.std()
        if not std > 0:
            raise DataError("the scores of the calibration trials are all equal: nothing can be told by them")
        weights = np.where(is_target, prior / is_target.sum(), (1 - prior) / (~is_target).sum())
        model = LogisticRegression(C=1 / _RIDGE, tol=1e-8, max_iter=1000)
        model.fit(((values - mean) / std)[:, None], is_target, sample_weight=weights)
        slope = float(model.coef_[0, 0] / std)
        log_odds = float(model.intercept_[0] - slope * mean)  # at a score of 0
        return cls(slope, log_odds + OperatingPoint(prior).threshold)

    def log_likelihood_ratio(self, scores: npt.ArrayLike) -> np.ndarray:
        """Natural log of p(score | same speaker) / p(score | different speakers), float64 (trials,)."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset

    def score(self, log_likelihood_ratio: float) -> float:
        """The score that has this log-likelihood ratio."""
        return (log_likelihood_ratio - self.offset) / self.slope


@dataclass(frozen=True)
class Calibration:
    """The calibration of every scoring, with what it takes to decide by the cosine of two embeddings.

    Attributes:
        cosine: from the cosine of centred embeddings.
        as_norm: from the AS-norm score.
        qmf: from the AS-norm score and the quality of both sides.
        llr: the scoring whose log-likelihood ratios the scores table carries.
        centre: (E,) what is subtracted from embeddings.
        operating_points: what decisions are for.
        speakers: whose trials it was fitted on: the cohort set's, or of these the validation speakers'.
        prior: probability of a target trial that it was fitted for.
        num_trials: it was fitted on.
    """

    cosine: AffineCalibration
    as_norm: AffineCalibration
    qmf: QmfCalibration
    llr: Scoring
    centre: tuple[float, ...]
    operating_points: tuple[OperatingPoint, ...]
    speakers: str
    prior: float
    num_trials: int

    def decision_scores(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """The scores (trials,) of a table of the SCORES schema that decisions are taken on, by scoring.

        QMF's are its log-likelihood ratios, which keep apart what its probability rounds to 1: the column
        `llr` where that is QMF's; else they come from the probability, which holds them up to 36.
        """
        from scipy.special import logit

        highest_below_one = 1 - np.finfo(np.float64).epsneg
        of_qmf = scores["llr"] if self.llr == "qmf" else logit(scores["qmf"].clip(1e-300, highest_below_one))
        columns = {"cosine": scores["cosine"], "as_norm": scores["as_norm"], "qmf": of_qmf}
        return {scoring: column.to_numpy() for scoring, column in columns.items()}

    def log_likelihood_ratio(self, scoring: str, decision_scores: np.ndarray) -> np.ndarray:
        """Natural log-likelihood ratios (trials,) of one scoring's decision scores."""
        if scoring == "qmf":
            return decision_scores
        affine = {"cosine": self.cosine, "as_norm": self.as_norm}[scoring]
        return affine.log_likelihood_ratio(decision_scores)

    def log_likelihood_ratios(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """Natural log-likelihood ratios (trials,) of a table of the SCORES schema, by scoring."""
        decided_on = self.decision_scores(scores).items()
        return {scoring: self.log_likelihood_ratio(scoring, values) for scoring, values in decided_on}

    def compare(self, enroll: npt.ArrayLike, test: npt.ArrayLike) -> np.ndarray:
        """Log-likelihood ratio of each pair of embeddings by their cosine, float64 (pairs,).

        Args:
            enroll: (pairs, E) embeddings as the model gives them.
            test: (pairs, E) likewise.

        Raises:
            DataError: the embeddings are of another width than the calibration's.
        """
        centre = np.asarray(self.centre)
        sides = [np.atleast_2d(np.asarray(side)) for side in (enroll, test)]
        for side in sides:
            if side.shape[1] != len(centre):
                raise DataError(
                    f"embeddings of width {side.shape[1]} cannot be compared by a calibration for width "
                    f"{len(centre)}: take the model that it was fitted for"
                )
        directions = [centre_and_normalise(side, centre) for side in sides]  # (pairs, E) each
        return self.cosine.log_likelihood_ratio(np.einsum("pe,pe->p", *directions))

    def thresholds(self, point: OperatingPoint) -> dict[str, float]:
        """The score from which on a trial is accepted, by scoring: QMF's is a probability."""
        from scipy.special import expit

        return {
            "cosine": self.cosine.score(point.threshold),
            "as_norm": self.as_norm.score(point.threshold),
            "qmf": float(expit(point.threshold)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file, each operating point with its thresholds in every score's unit."""
        points = [
            {**asdict(point), "accept_from": {"llr": point.threshold, **self.thresholds(point)}}
            for point in self.operating_points
        ]
        return {"format": FORMAT, "operating_points": points, **_without(asdict(self), "operating_points")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` described.

        Raises:
            DataError: another version wrote it, or for other features than this one computes.
        """
        if values.get("format") != FORMAT:
            raise DataError(f"the calibration has format {values.get('format')}, not {FORMAT}: fit it anew")
        points = (OperatingPoint(**_without(point, "accept_from")) for point in values["operating_points"])
        parts = {
            "cosine": AffineCalibration(**values["cosine"]),
            "as_norm": AffineCalibration(**values["as_norm"]),
            "qmf": QmfCalibration.from_dict(values["qmf"]),
            "centre": tuple(values["centre"]),
            "operating_points": tuple(points),
        }
        return cls(**{**_without(values, "format"), **parts})

    @classmethod
    def read(cls, file: str | Path) -> Calibration:
        """The calibration that the `score` pipeline left in a JSON file.

        Raises:
            DataError: as `from_dict`.
        """
        return cls.from_dict(json.loads(Path(file).read_text()))


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def fit_calibration(
    cosine: np.ndarray, features: np.ndarray, labels: np.ndarray, centre: np.ndarray, settings: ScoreSettings
) -> Calibration:
    """Fit the calibration of every scoring on the same trials.

    Args:
        cosine: (trials,).
        features: (trials, 9), the first the AS-norm score.
        labels: (trials,), 1 target, 0 non-target, as many of each.
        centre: (E,) what was subtracted from the embeddings.
        settings: of the scoring and of the calibration.

    Raises:
        DataError: as `AffineCalibration.fit`.
    """
    prior = settings.calibration_prior
    return Calibration(
        cosine=AffineCalibration.fit(cosine, labels, prior),
        as_norm=AffineCalibration.fit(features[:, 0], labels, prior),
        qmf=fit_qmf_calibration(features, labels, prior),
        llr=settings.llr,
        centre=tuple(centre.tolist()),
        operating_points=settings.operating_points,
        speakers=settings.calibration_speakers,
        prior=prior,
        num_trials=len(labels),
    )


def calibration_trials(
    utterances: pd.DataFrame, validation: pd.DataFrame, settings: ScoreSettings, seed: int
) -> CalibrationTrials:
    """Draw the trials that calibrations are fitted on, among all speakers of the cohort set or some.

    Args:
        utterances: the cohort set, UTTERANCES schema.
        validation: utterances of the held-out training speakers, likewise.
        settings: of the calibration.
        seed: the same seed draws the same trials.

    Raises:
        DataError: the validation speakers are asked for and are not in the cohort set, or no trials of both
            classes can be drawn.
    """
    speaker_ids = utterances["speaker_id"]
    if settings.calibration_speakers == "cohort":
        return draw_calibration_trials(speaker_ids, settings.calibration_trials, seed)
    rows = np.flatnonzero(utterances["utterance_id"].isin(validation["utterance_id"]))
    if not len(rows):
        raise DataError(
            "parameter 'score.calibration_speakers' is 'validation', but the cohort set holds none of these "
            "speakers: take prepare.training_set as embed.cohort_set, or 'cohort'"
        )
    drawn = draw_calibration_trials(speaker_ids.iloc[rows], settings.calibration_trials, seed)
    return replace(drawn, enroll_rows=rows[drawn.enroll_rows], test_rows=rows[drawn.test_rows])
