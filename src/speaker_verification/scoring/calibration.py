"""Calibration: from the scores of every scoring to log-likelihood ratios, and to thresholds a person can use.

Fitted on trials between speakers that no trial list holds.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.scoring.cosine import centre_and_normalise
from speaker_verification.scoring.metrics import DecisionErrors, OperatingPoint, decision_errors
from speaker_verification.scoring.qmf import (
    CalibrationTrials,
    QmfCalibration,
    draw_calibration_trials,
    fit_qmf_calibration,
)
from speaker_verification.scoring.settings import ScoreSettings, Scoring

FORMAT = 2
OLDER_FORMATS = (1,)  # without the calibration trials' ratios and errors

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
        seen_llrs: by scoring, the lowest and the highest log-likelihood ratio of the trials it was fitted on.
        errors: by operating point and scoring, the wrong decisions on these trials, which tell what to
            expect of speakers like theirs.
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
    seen_llrs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    errors: Mapping[OperatingPoint, Mapping[str, DecisionErrors]] = field(default_factory=dict)

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

    def decide(self, enroll: npt.ArrayLike, test: npt.ArrayLike, point: OperatingPoint) -> np.ndarray:
        """Whether each pair of embeddings is to be taken for one speaker, by their cosine, bool (pairs,).

        Warns where the operating point is beyond the ratios of all calibration trials.

        Args:
            enroll: (pairs, E) embeddings as the model gives them.
            test: (pairs, E) likewise.
            point: what the decisions are for.

        Raises:
            ParameterError: the cosine cannot serve the operating point, as `unreachable` says.
            DataError: as `compare`.
        """
        if (sentence := self.unreachable(point).get("cosine")) is not None:
            raise ParameterError(f"{sentence}; take another operating point or a model that separates better")
        if (sentence := self.unseen(point).get("cosine")) is not None:
            warnings.warn(sentence, stacklevel=2)
        return self.compare(enroll, test) >= point.threshold

    def unreachable(self, point: OperatingPoint) -> dict[str, str]:
        """A sentence on each scoring that cannot serve an operating point.

        Cosines lie between -1 and 1, so their log-likelihood ratios do not go beyond those of the two ends,
        and every trial gets the same answer where another one is needed; the other two scorings have no
        bounds. A ratio that falls with the score accepts the lowest scores, whatever the point.
        """
        sentences = {
            scoring: f"{scoring} cannot reach the operating point {point}: its log-likelihood ratio falls as "
            f"the score rises (slope {affine.slope:.3g}): targets score below non-targets"
            for scoring, affine in {"cosine": self.cosine, "as_norm": self.as_norm}.items()
            if affine.slope <= 0
        }
        lowest, highest = self.cosine.log_likelihood_ratio([-1.0, 1.0]).tolist()
        if "cosine" in sentences or lowest <= point.threshold <= highest:
            return sentences
        answer = "refused" if point.threshold > highest else "accepted"
        return {
            "cosine": f"cosine cannot reach the operating point {point}: it needs a log-likelihood ratio of "
            f"{point.threshold:.2f}, those of cosines lie between {lowest:.2f} and {highest:.2f}, so every "
            f"trial is {answer}",
            **sentences,
        }

    def unseen(self, point: OperatingPoint) -> dict[str, str]:
        """A sentence on each scoring whose calibration trials all get one answer at an operating point.

        Scorings that cannot reach it at all are left out.
        """
        unreachable = self.unreachable(point)
        return {
            scoring: f"{scoring} at the operating point {point} is beyond anything seen in calibration: it "
            f"needs a log-likelihood ratio of {point.threshold:.2f}, those of the calibration trials lie "
            f"between {lowest:.2f} and {highest:.2f}"
            for scoring, (lowest, highest) in self.seen_llrs.items()
            if scoring not in unreachable and not lowest <= point.threshold <= highest
        }

    def remarks(self, point: OperatingPoint) -> dict[str, str]:
        """Messages of `unreachable` and `unseen` on an operating point, by scoring."""
        return {**self.unreachable(point), **self.unseen(point)}

    def thresholds(self, point: OperatingPoint) -> dict[str, float]:
        """The score from which on a trial is accepted, by scoring: QMF's is a probability.

        Warns of scorings that cannot reach the operating point; their threshold is a score that none has.
        """
        for sentence in self.unreachable(point).values():
            warnings.warn(sentence, stacklevel=2)
        return self._thresholds(point)

    def _thresholds(self, point: OperatingPoint) -> dict[str, float]:
        from scipy.special import expit

        return {
            "cosine": self.cosine.score(point.threshold),
            "as_norm": self.as_norm.score(point.threshold),
            "qmf": float(expit(point.threshold)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file.

        Each operating point stands there with its thresholds in every score's unit, with the scorings that
        reach it, and with the errors on the calibration trials at these thresholds.
        """
        described = {"operating_points": [self._describe(point) for point in self.operating_points]}
        parts = {name: asdict(getattr(self, name)) for name in ("cosine", "as_norm", "qmf")}
        plain = ("llr", "centre", "speakers", "prior", "num_trials", "seen_llrs")
        return {"format": FORMAT, **described, **parts, **{name: getattr(self, name) for name in plain}}

    def _describe(self, point: OperatingPoint) -> dict[str, Any]:
        thresholds, unreachable = self._thresholds(point), self.unreachable(point)
        return {
            **asdict(point),
            "accept_from": {"llr": point.threshold, **thresholds},
            "reachable": {scoring: scoring not in unreachable for scoring in thresholds},
            "errors_on_calibration_trials": {
                scoring: {
                    "miss_rate": errors.miss_rate,
                    "false_acceptance_rate": errors.false_acceptance_rate,
                    **asdict(errors),
                }
                for scoring, errors in self.errors.get(point, {}).items()
            },
            "remarks": list(self.remarks(point).values()),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` described.

        Raises:
            DataError: another version wrote it, or for other features than this one computes.
        """
        if values.get("format") not in (FORMAT, *OLDER_FORMATS):
            raise DataError(f"the calibration has format {values.get('format')}, not {FORMAT}: fit it anew")
        points = {
            OperatingPoint(point["p_target"], point["c_miss"], point["c_fa"]): point
            for point in values["operating_points"]
        }
        parts = {
            "cosine": AffineCalibration(**values["cosine"]),
            "as_norm": AffineCalibration(**values["as_norm"]),
            "qmf": QmfCalibration.from_dict(values["qmf"]),
            "centre": tuple(values["centre"]),
            "operating_points": tuple(points),
            "seen_llrs": {scoring: tuple(ends) for scoring, ends in values.get("seen_llrs", {}).items()},
            "errors": {
                point: _errors_of(described["errors_on_calibration_trials"])
                for point, described in points.items()
                if described.get("errors_on_calibration_trials")
            },
        }
        return cls(**{**{name: value for name, value in values.items() if name != "format"}, **parts})

    @classmethod
    def read(cls, file: str | Path) -> Calibration:
        """The calibration that the `score` pipeline left in a JSON file.

        Raises:
            DataError: as `from_dict`.
        """
        return cls.from_dict(json.loads(Path(file).read_text()))


def _errors_of(described: Mapping[str, Mapping[str, Any]]) -> dict[str, DecisionErrors]:
    """The counts, by scoring, without the rates that stand beside them in a file."""
    names = [part.name for part in fields(DecisionErrors)]
    return {
        scoring: DecisionErrors(**{name: errors[name] for name in names})
        for scoring, errors in described.items()
    }


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
    fitted = Calibration(
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
    llrs = {
        "cosine": fitted.cosine.log_likelihood_ratio(cosine),
        "as_norm": fitted.as_norm.log_likelihood_ratio(features[:, 0]),
        "qmf": fitted.qmf.log_likelihood_ratio(features),
    }
    errors = {
        point: {scoring: decision_errors(values, labels, point) for scoring, values in llrs.items()}
        for point in fitted.operating_points
    }
    seen = {scoring: (float(values.min()), float(values.max())) for scoring, values in llrs.items()}
    return replace(fitted, seen_llrs=seen, errors=errors)


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
