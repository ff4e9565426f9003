"""Registry of the classification heads, which are used in training only."""

from __future__ import annotations

from speaker_verification.common.registry import ClassRegistry, KindSettings
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.heads.base import Head
from speaker_verification.models.heads.sphereface2 import SphereFace2

HEADS: ClassRegistry[type[Head]] = ClassRegistry(
    "head",
    Head,
    {"aam_softmax": SubcentreMarginHead, "sphereface2": SphereFace2},
)


class HeadSettings(KindSettings, registry=HEADS, default="aam_softmax"):
    """Classification head; its margins belong to a phase."""


def build_head(settings: HeadSettings, embedding_size: int, num_classes: int) -> Head:
    """The chosen head for embeddings of size E and C classes."""
    head: Head = settings.chosen_class(embedding_size, num_classes, settings.chosen)
    return head
