"""Identification: the enrolled speakers who a recording may be of, or nobody."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speaker_verification.common.errors import ParameterError
from speaker_verification.deployment.enrolment_store import EnrolmentStore, refuse_unusable
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.embeddings import mean_of
from speaker_verification.scoring.metrics import OperatingPoint
from speaker_verification.scoring.sides import SideScorer, find_highest

if TYPE_CHECKING:
    from speaker_verification.deployment.verifier import Verifier


def side_scorer(verifier: Verifier) -> SideScorer:
    """Scoring of a verifier, for an enrolment store and for searching it.

    Raises:
        ParameterError: as `SideScorer`.
    """
    settings = verifier.settings
    return SideScorer(
        verifier.cohort,
        settings.score,
        verifier.calibration,
        verifier.fitted,
        has_crops=settings.extraction.num_crops > 0,
    )


@dataclass(frozen=True)
class Candidate:
    """Enrolled speaker whom a recording may be of.

    Attributes:
        speaker: name.
        log_likelihood_ratio: natural, of "this speaker" against "another".
        margin: by how much the next speaker's is lower; None: there is no next.
    """

    speaker: str
    log_likelihood_ratio: float
    margin: float | None


@dataclass(frozen=True)
class Identification:
    """Answer to whose recording it is.

    Attributes:
        candidates: the best ones, by falling log-likelihood ratio.
        threshold: lowest log-likelihood ratio of an accepted speaker.
        num_enrolled: speakers that were searched.
    """

    candidates: tuple[Candidate, ...]
    threshold: float
    num_enrolled: int

    @property
    def speaker(self) -> str | None:
        """Name of the first candidate if it is accepted, otherwise None: nobody who is enrolled."""
        if self.candidates and self.candidates[0].log_likelihood_ratio >= self.threshold:
            return self.candidates[0].speaker
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""
        return {"speaker": self.speaker, **asdict(self)}


def identify(
    test_embedding: npt.ArrayLike,
    store: EnrolmentStore,
    point: OperatingPoint,
    *,
    seconds: float,
    top: int = 10,
) -> Identification:
    """Search a recording among all enrolled speakers, exactly.

    Each speaker is accepted or not as in verification. So `p_target` is the probability that a recording is
    of one given speaker: with N enrolled, the probability that it is of any of them, divided by N. Warns
    where the operating point is beyond the ratios of all calibration trials.

    Args:
        test_embedding: (E,) as the model gives it.
        store: enrolled speakers, opened with the verifier's scoring.
        point: operating point of the decision.
        seconds: duration of the recording.
        top: number of candidates.

    Raises:
        DataError: the embedding is not finite, nearly zero or of another width.
        ParameterError: `top` is below 1, the scoring cannot reach the operating point, or the store was
            opened without a scoring.
    """
    if top < 1:
        raise ParameterError(f"top is {top}: take 1 or more")
    scorer, snapshot = store.scorer, store.snapshot
    scorer.calibration.check_reach(scorer.scoring, point)
    test = scorer.describe(refuse_unusable(test_embedding, store.width, "recording"), [seconds])
    found: list[tuple[float, str]] = []
    places = find_highest(store.lines(snapshot), snapshot.counted, test, scorer, top + 1)
    for part, rows in zip(snapshot.parts, places, strict=True):
        if not len(rows):
            continue
        models = np.stack([mean_of(part.embeddings_at(row)) for row in rows])
        cosines = centre_and_normalise(models, scorer.cohort.centre) @ test.directions[0]  # (rows,)
        ratios = scorer.log_likelihood_ratios(cosines, part.sides.at(rows), test)
        found += zip(ratios.tolist(), part.names.take(rows).to_pylist(), strict=True)
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    following = [ratio for ratio, _ in found[1:]] + [math.nan]
    candidates = tuple(
        Candidate(name, ratio, None if math.isnan(after) else ratio - after)
        for (ratio, name), after in zip(found[:top], following, strict=False)
    )
    return Identification(candidates, point.threshold, len(store))
