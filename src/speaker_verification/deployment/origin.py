"""Provenance of a verifier: recipe, encoder, and corpora with their licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speaker_verification.models.settings import ModelSettings


@dataclass(frozen=True)
class UsedCorpus:
    """Recordings of a corpus, and their part in a verifier.

    Attributes:
        use: "training", "augmentation", "cohort", "calibration", "cohort and calibration", "adaptation" or
            "trials".
        name: name of the corpus.
        licence: licence of its recordings.
        subsets: subsets that were used.
    """

    use: str
    name: str
    licence: str
    subsets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "subsets", tuple(self.subsets))


@dataclass(frozen=True)
class Origin:
    """Provenance of a verifier.

    Attributes:
        recipe: name of the recipe that trained the model; empty where it is not known.
        encoder: pre-trained encoder, by its name on the hub; empty for one of random weights.
        corpora: corpora that it learnt from or was measured on.
        version: version of this package.
    """

    recipe: str = ""
    encoder: str = ""
    corpora: tuple[UsedCorpus, ...] = ()
    version: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Origin:
        """Origin from the plain values that `asdict` gave."""
        corpora = tuple(UsedCorpus(**corpus) for corpus in values["corpora"])
        return cls(**{**values, "corpora": corpora})


def name_encoder(settings: ModelSettings) -> str:
    """Pre-trained encoder of a model by its name on the hub, or by the name of its folder."""
    checkpoint = settings.frontend.checkpoint or ""
    return Path(checkpoint).name if Path(checkpoint).is_absolute() else checkpoint
