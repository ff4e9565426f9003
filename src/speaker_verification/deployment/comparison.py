"""Result of comparing recordings: scores, log-likelihood ratio, decision, and error rates measured there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from speaker_verification.scoring.metrics import DecisionErrors, OperatingPoint


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two sides.

    Attributes:
        scores: score by scoring, as in the scores table.
        llr: natural log-likelihood ratio of "same speaker" to "different speakers".
        operating_point: operating point of the decision.
        prior: probability of "same speaker" before the comparison.
        error_rates: wrong decisions at this operating point by trial list, and on the calibration trials;
            empty for a point at which none were measured.
        fingerprint: fingerprint of the verifier.
        remarks: sentences on what may lower the quality of the recordings.
    """

    scores: Mapping[str, float]
    llr: float
    operating_point: OperatingPoint
    prior: float
    error_rates: Mapping[str, DecisionErrors]
    fingerprint: str
    remarks: tuple[str, ...] = ()

    @property
    def cosine(self) -> float | None:
        """Cosine of the centred embeddings; None where it is not computed."""
        return self.scores.get("cosine")

    @property
    def as_norm(self) -> float | None:
        """AS-norm score; None where it is not computed."""
        return self.scores.get("as_norm")

    @property
    def qmf(self) -> float | None:
        """QMF score, a natural log-likelihood ratio; None where it is not computed."""
        return self.scores.get("qmf")

    @property
    def accept(self) -> bool:
        """Whether the sides are decided to be of one speaker."""
        return self.llr >= self.operating_point.threshold

    @property
    def probability(self) -> float:
        """Probability of "same speaker" at the prior."""
        from scipy.special import expit

        return float(expit(self.llr + math.log(self.prior) - math.log1p(-self.prior)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""
        return {
            "accept": self.accept,
            "llr": self.llr,
            "probability": self.probability,
            "prior": self.prior,
            "scores": dict(self.scores),
            "operating_point": {**asdict(self.operating_point), "threshold": self.operating_point.threshold},
            "error_rates": {
                name: {
                    "miss_rate": errors.miss_rate,
                    "false_acceptance_rate": errors.false_acceptance_rate,
                    **asdict(errors),
                }
                for name, errors in self.error_rates.items()
            },
            "fingerprint": self.fingerprint,
            "remarks": list(self.remarks),
        }
