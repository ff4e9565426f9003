"""The three scorings, one trial at a time in float64: what the scoring in blocks must equal."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ReferenceCohort:
    """Speakers' names and centred embeddings, one by one."""

    speakers: Sequence[str]
    embeddings: Sequence[Vector]
    centre: Vector

    @classmethod
    def of(
        cls, raw: NDArray[Any], speakers: Sequence[str], kind: str = "speaker_means", centred: bool = True
    ) -> ReferenceCohort:
        raw = np.asarray(raw, dtype=np.float64)
        centre = sum(raw) / len(raw) if centred else np.zeros(raw.shape[1])
        if kind == "utterances":
            return cls(speakers, [own - centre for own in raw], centre)
        names = sorted(set(speakers))
        rows_of: dict[str, list[int]] = {name: [] for name in names}
        for row, speaker in enumerate(speakers):
            rows_of[speaker].append(row)
        return cls(names, [sum(raw[rows_of[n]]) / len(rows_of[n]) - centre for n in names], centre)

    def without(self, speakers: Collection[str]) -> ReferenceCohort:
        kept = [(s, e) for s, e in zip(self.speakers, self.embeddings, strict=True) if s not in set(speakers)]
        return ReferenceCohort([s for s, _ in kept], [e for _, e in kept], self.centre)


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def cohort_statistics(
    centred: Vector, cohort: ReferenceCohort, top_n: int, biased: bool = False
) -> tuple[float, float]:
    kept = sorted((cosine(centred, member) for member in cohort.embeddings), reverse=True)[:top_n]
    mean = sum(kept) / top_n
    return mean, math.sqrt(sum((value - mean) ** 2 for value in kept) / (top_n - (not biased)))


def as_norm(enroll: Vector, test: Vector, cohort: ReferenceCohort, top_n: int, biased: bool = False) -> float:
    """Of raw embeddings."""
    one, other = (np.asarray(side, dtype=np.float64) - cohort.centre for side in (enroll, test))
    score = cosine(one, other)
    sides = [cohort_statistics(side, cohort, top_n, biased) for side in (one, other)]
    return sum((score - mean) / std for mean, std in sides) / 2


def nine_features(
    score: float, enroll: Vector, test: Vector, enroll_seconds: float, test_seconds: float
) -> list[float]:
    enroll, test = np.asarray(enroll, dtype=np.float64), np.asarray(test, dtype=np.float64)
    norms = [norm for side in (enroll, test) for norm in (abs(side).sum(), math.sqrt(side @ side))]
    deviations = [math.sqrt(((side - side.mean()) ** 2).mean()) for side in (enroll, test)]
    return [score, math.log(enroll_seconds), math.log(test_seconds), *norms, *deviations]
