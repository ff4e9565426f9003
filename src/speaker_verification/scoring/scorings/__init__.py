"""Scorings: a registry, and one file for each of them."""

from collections.abc import Sequence

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.registry import ClassRegistry
from speaker_verification.scoring.scorings.as_norm import AsNorm
from speaker_verification.scoring.scorings.base import Fitted, Scoring, Trials
from speaker_verification.scoring.scorings.cosine import Cosine
from speaker_verification.scoring.scorings.plda import Plda
from speaker_verification.scoring.scorings.qmf import Qmf

SCORINGS: ClassRegistry[type[Scoring]] = ClassRegistry(
    "scoring",
    Scoring,
    {
        scoring.name: scoring
        for scoring in (
            Cosine,
            AsNorm,
            Qmf,
            Plda,
        )
    },
)


def find_scorings(names: Sequence[str] | None) -> dict[str, type[Scoring]]:
    """Scorings by the names of their columns, in order.

    Args:
        names: registered names, or dotted names of classes from elsewhere; None: all registered ones.

    Raises:
        ParameterError: a name is unknown, two scorings share a name, or a name is no column of its own.
    """
    found: dict[str, type[Scoring]] = {}
    for asked in SCORINGS if names is None else names:
        scoring = SCORINGS.find(asked)
        if not scoring.name.isidentifier() or scoring.name in RESERVED:
            raise ParameterError(
                f"scoring '{asked}': its name is '{scoring.name}': take an identifier other than "
                f"{', '.join(RESERVED)}"
            )
        if scoring.name in found:
            raise ParameterError(f"scoring '{asked}': there are two scorings of the name '{scoring.name}'")
        found[scoring.name] = scoring
    return found


RESERVED = ("trial_list", "enroll_id", "test_id", "label", "llr", "score")

__all__ = ["SCORINGS", "Fitted", "Scoring", "Trials", "find_scorings"]
