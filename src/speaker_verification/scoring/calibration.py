"""Calibration of all scorings: log-likelihood ratios and decision thresholds from scores.

Fitted on trials between speakers that no trial list holds.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import SCORES
from speaker_verification.scoring.adaptation import Adaptation
from speaker_verification.scoring.affine import AffineCalibration
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.metrics import DecisionErrors, OperatingPoint, decision_errors
from speaker_verification.scoring.scorings import SCORINGS
from speaker_verification.scoring.scorings.cosine import Cosine
from speaker_verification.scoring.settings import ScoreSettings

FORMAT = 3
OLDER_FORMATS = (1, 2)  # with QMF's coefficients, and a probability as its score; 1 without errors


@dataclass(frozen=True)
class ScoringCalibration:
    """Map from the scores of one scoring to log-likelihood ratios.

    Attributes:
        affine: the map.
        lowest: lowest possible score.
        highest: highest possible score.
        is_llr: whether the scores are log-likelihood ratios already.
        seen_llrs: lowest and highest log-likelihood ratio of the calibration trials; None: not known.
    """

    affine: AffineCalibration
    lowest: float = -math.inf
    highest: float = math.inf
    is_llr: bool = False
    seen_llrs: tuple[float, float] | None = None

    def unreachable(self, point: OperatingPoint) -> str | None:
        """Reason why no threshold on the score serves an operating point; None where one does.

        Bounded scores have bounded log-likelihood ratios: beyond them every trial gets the same answer. A
        ratio that falls with the score accepts the lowest scores, whatever the point.
        """
        if self.affine.slope <= 0:
            return (
                f"its log-likelihood ratio falls as the score rises (slope {self.affine.slope:.3g}): targets "
                "score below non-targets"
            )
        lowest, highest = self.affine.log_likelihood_ratio([self.lowest, self.highest]).tolist()
        if lowest <= point.threshold <= highest:
            return None
        answer = "refused" if point.threshold > highest else "accepted"
        return (
            f"it needs a log-likelihood ratio of {point.threshold:.2f}, those of its scores lie between "
            f"{lowest:.2f} and {highest:.2f}, so every trial is {answer}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; None for no bound."""
        ends = {name: end if math.isfinite(end) else None for name, end in self._ends.items()}
        return {**asdict(self.affine), **ends, "is_llr": self.is_llr, "seen_llrs": self.seen_llrs}

    @property
    def _ends(self) -> dict[str, float]:
        return {"lowest": self.lowest, "highest": self.highest}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoringCalibration:
        """Calibration from the plain values that `to_dict` gave."""
        lowest, highest, seen = (values.get(name) for name in ("lowest", "highest", "seen_llrs"))
        return cls(
            AffineCalibration(values["slope"], values["offset"]),
            -math.inf if lowest is None else lowest,
            math.inf if highest is None else highest,
            values.get("is_llr", False),
            None if seen is None else (seen[0], seen[1]),
        )


@dataclass(frozen=True)
class Calibration:
    """Calibration of every scoring, with the centre needed to decide by the cosine of two embeddings.

    Attributes:
        scorings: calibration of each scoring, by name, in the order of the scores table.
        llr: scoring whose log-likelihood ratios are the column `llr` of the scores table.
        centre: (E,) subtracted from embeddings.
        operating_points: operating points at which decisions are measured.
        speakers: speakers of the calibration trials: "cohort", or only its "validation" speakers.
        prior: probability of a target trial that it was fitted for.
        num_trials: number of calibration trials.
        adaptation: adaptation of these trials to another domain; None: none.
        errors: wrong decisions on the calibration trials, by operating point and scoring: the rates to
            expect of speakers like theirs.
    """

    scorings: Mapping[str, ScoringCalibration]
    llr: str
    centre: tuple[float, ...]
    operating_points: tuple[OperatingPoint, ...]
    speakers: str
    prior: float
    num_trials: int
    adaptation: Adaptation | None = None
    errors: Mapping[OperatingPoint, Mapping[str, DecisionErrors]] = field(default_factory=dict)

    def scores_by_scoring(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """Scores (trials,) of a table of the SCORES schema, by scoring.

        Raises:
            DataError: table and calibration hold other scorings than each other, as after an update; they
                are named.
        """
        columns = SCORES.other_columns(scores)
        if set(columns) != set(self.scorings):
            raise DataError(
                f"the scores table holds {', '.join(columns)}, the calibration {', '.join(self.scorings)}: "
                "they are of two runs or of an earlier version: run the score pipeline anew"
            )
        return {name: scores[name].to_numpy() for name in self.scorings}

    def log_likelihood_ratio(self, scoring: str, scores: np.ndarray) -> np.ndarray:
        """Natural log-likelihood ratios (trials,) of one scoring's scores (trials,)."""
        return self.scorings[scoring].affine.log_likelihood_ratio(scores)

    def log_likelihood_ratios(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """Natural log-likelihood ratios (trials,) of a table of the SCORES schema, by scoring."""
        by_scoring = self.scores_by_scoring(scores).items()
        return {scoring: self.log_likelihood_ratio(scoring, values) for scoring, values in by_scoring}

    def exported(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """Columns (trials,) for other toolkits: each scoring's, and the log-likelihood ratios as `llr`.

        Scorings that give log-likelihood ratios are exported as the probability of "same speaker" at even
        odds, as they are published.

        Args:
            scores: table of the SCORES schema.

        Raises:
            DataError: as `scores_by_scoring`.
        """
        from scipy.special import expit

        by_scoring = self.scores_by_scoring(scores).items()
        columns = {
            name: expit(values) if self.scorings[name].is_llr else values for name, values in by_scoring
        }
        return {**columns, "llr": scores["llr"].to_numpy()}

    def compare(self, enroll: npt.ArrayLike, test: npt.ArrayLike) -> np.ndarray:
        """Log-likelihood ratio of each pair of embeddings by their cosine, float64 (pairs,).

        Args:
            enroll: (pairs, E) embeddings as the model gives them.
            test: (pairs, E) embeddings as the model gives them.

        Raises:
            DataError: the embeddings have another width than the calibration's, or it has no cosine.
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
        return self._cosine.affine.log_likelihood_ratio(np.einsum("pe,pe->p", *directions))

    @property
    def _cosine(self) -> ScoringCalibration:
        if Cosine.name not in self.scorings:
            raise DataError(
                f"the calibration holds {', '.join(self.scorings)}, but pairs of embeddings are compared by "
                f"{Cosine.name}: add it to the scorings and run the score pipeline anew"
            )
        return self.scorings[Cosine.name]

    def decide(self, enroll: npt.ArrayLike, test: npt.ArrayLike, point: OperatingPoint) -> np.ndarray:
        """Decisions on pairs of embeddings by their calibrated cosine, bool (pairs,); True: same speaker.

        Warns where the operating point is beyond the ratios of all calibration trials.

        Args:
            enroll: (pairs, E) embeddings as the model gives them.
            test: (pairs, E) embeddings as the model gives them.
            point: operating point of the decisions.

        Raises:
            ParameterError: the cosine cannot serve the operating point, as `unreachable` says.
            DataError: as `compare`.
        """
        self.check_reach(Cosine.name, point)
        return self.compare(enroll, test) >= point.threshold

    def check_reach(self, scoring: str, point: OperatingPoint) -> None:
        """Refuse an operating point that a scoring cannot serve; warn of one beyond the calibration trials.

        Raises:
            ParameterError: the scoring cannot serve the operating point, as `unreachable` says.
        """
        if (sentence := self.unreachable(point).get(scoring)) is not None:
            raise ParameterError(f"{sentence}; take another operating point or a model that separates better")
        if (sentence := self.unseen(point).get(scoring)) is not None:
            warnings.warn(sentence, stacklevel=3)

    def unreachable(self, point: OperatingPoint) -> dict[str, str]:
        """A sentence on each scoring that cannot serve an operating point."""
        reasons = {name: scoring.unreachable(point) for name, scoring in self.scorings.items()}
        return {
            name: f"{name} cannot reach the operating point {point}: {reason}"
            for name, reason in reasons.items()
            if reason is not None
        }

    def unseen(self, point: OperatingPoint) -> dict[str, str]:
        """A sentence on each scoring whose calibration trials all get one answer at an operating point.

        Scorings that cannot reach it at all are left out.
        """
        unreachable, sentences = self.unreachable(point), {}
        for name, scoring in self.scorings.items():
            if name in unreachable or scoring.seen_llrs is None:
                continue
            lowest, highest = scoring.seen_llrs
            if not lowest <= point.threshold <= highest:
                sentences[name] = (
                    f"{name} at the operating point {point} is beyond anything seen in calibration: it needs "
                    f"a log-likelihood ratio of {point.threshold:.2f}, those of the calibration trials lie "
                    f"between {lowest:.2f} and {highest:.2f}"
                )
        return sentences

    def remarks(self, point: OperatingPoint) -> dict[str, str]:
        """Messages of `unreachable` and `unseen` on an operating point, by scoring."""
        return {**self.unreachable(point), **self.unseen(point)}

    def shortcomings(self, point: OperatingPoint) -> str:
        """The scorings of `remarks` in a few words for a log; empty where all serve the operating point."""
        parts = {
            "out of reach of": self.unreachable(point),
            "beyond the calibration trials of": self.unseen(point),
        }
        return " and ".join(f"{relation} {', '.join(names)}" for relation, names in parts.items() if names)

    def thresholds(self, point: OperatingPoint) -> dict[str, float]:
        """Lowest score at which a trial is accepted, by scoring.

        Warns of scorings that cannot reach the operating point; their threshold is a score that none has.
        """
        for sentence in self.unreachable(point).values():
            warnings.warn(sentence, stacklevel=2)
        return self._thresholds(point)

    def _thresholds(self, point: OperatingPoint) -> dict[str, float]:
        return {name: scoring.affine.score(point.threshold) for name, scoring in self.scorings.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file.

        Each operating point has its thresholds in every score's unit, whether the scorings reach it, and the
        errors on the calibration trials at these thresholds.
        """
        described = {"operating_points": [self._describe(point) for point in self.operating_points]}
        scorings = {name: scoring.to_dict() for name, scoring in self.scorings.items()}
        plain = ("llr", "centre", "speakers", "prior", "num_trials", "adaptation")
        return {
            "format": FORMAT,
            **described,
            "scorings": scorings,
            **{name: getattr(self, name) for name in plain},
        }

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
        """Calibration from the plain values that `to_dict` gave.

        Those of an older format are read without QMF, whose scores were probabilities then: they serve
        `decide` and `compare`, and a scores table of the same version is refused.

        Raises:
            DataError: the format is unknown.
        """
        if values.get("format") not in (FORMAT, *OLDER_FORMATS):
            raise DataError(
                f"the calibration has format {values.get('format')}, not {FORMAT}: "
                "run the score pipeline anew"
            )
        scorings = values["scorings"] if values["format"] == FORMAT else _scorings_of_older_format(values)
        points = {
            OperatingPoint(point["p_target"], point["c_miss"], point["c_fa"]): point
            for point in values["operating_points"]
        }
        errors = {
            point: _errors_of(described.get("errors_on_calibration_trials", {}), scorings)
            for point, described in points.items()
        }
        return cls(
            scorings={name: ScoringCalibration.from_dict(part) for name, part in scorings.items()},
            llr=values["llr"],
            centre=tuple(values["centre"]),
            operating_points=tuple(points),
            speakers=values["speakers"],
            prior=values["prior"],
            num_trials=values["num_trials"],
            adaptation=values.get("adaptation"),
            errors={point: counts for point, counts in errors.items() if counts},
        )

    @classmethod
    def read(cls, file: str | Path) -> Calibration:
        """Calibration in the JSON file that the `score` pipeline wrote.

        Raises:
            DataError: as `from_dict`.
        """
        return cls.from_dict(json.loads(Path(file).read_text()))


def _scorings_of_older_format(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scorings with an affine map, as format 3 has them; each was a value beside the others."""
    affine = [name for name in SCORINGS if set(values.get(name, ())) == {"slope", "offset"}]
    seen = values.get("seen_llrs", {})
    ends = {
        name: {
            end: value
            for end in ("lowest", "highest")
            if math.isfinite(value := getattr(SCORINGS[name], end))
        }
        for name in affine
    }
    return {name: {**values[name], **ends[name], "seen_llrs": seen.get(name)} for name in affine}


def _errors_of(
    described: Mapping[str, Mapping[str, Any]], scorings: Iterable[str]
) -> dict[str, DecisionErrors]:
    """The counts, by scoring, without the rates beside them in a file."""
    names = [part.name for part in fields(DecisionErrors)]
    return {
        scoring: DecisionErrors(**{name: described[scoring][name] for name in names})
        for scoring in scorings
        if scoring in described
    }


def fit_calibration(
    scores: Mapping[str, np.ndarray], labels: np.ndarray, centre: np.ndarray, settings: ScoreSettings
) -> Calibration:
    """Fit the calibration of every scoring on the same trials.

    Args:
        scores: (trials,) scores, by scoring; the settings name them.
        labels: (trials,), 1 target, 0 non-target, as many of each.
        centre: (E,) subtracted from the embeddings.
        settings: parameters of the scorings and of the calibration.

    Raises:
        DataError: the scores of a scoring are all equal; it is named.
    """
    prior = settings.calibration_prior
    scorings: dict[str, ScoringCalibration] = {}
    llrs: dict[str, np.ndarray] = {}
    for name, scoring in settings.chosen.items():
        try:
            affine = scoring().calibrate(scores[name], labels, prior)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        llrs[name] = affine.log_likelihood_ratio(scores[name])
        seen = float(llrs[name].min()), float(llrs[name].max())
        scorings[name] = ScoringCalibration(affine, scoring.lowest, scoring.highest, scoring.is_llr, seen)
    points = settings.operating_points
    return Calibration(
        scorings=scorings,
        llr=settings.llr,
        centre=tuple(centre.tolist()),
        operating_points=points,
        speakers=settings.calibration_speakers,
        prior=prior,
        num_trials=len(labels),
        adaptation=settings.adaptation,
        errors={
            point: {name: decision_errors(values, labels, point) for name, values in llrs.items()}
            for point in points
        },
    )
