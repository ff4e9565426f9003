"""Registry of the classification heads, which are used in training only."""

from __future__ import annotations

from pydantic import Field, model_validator

from speaker_verification.common.registry import ClassRegistry, KindSettings
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.heads.base import Head
from speaker_verification.models.heads.sharding import ShardableHead
from speaker_verification.models.heads.sphereface2 import SphereFace2

HEADS: ClassRegistry[type[Head]] = ClassRegistry(
    "head",
    Head,
    {"aam_softmax": SubcentreMarginHead, "sphereface2": SphereFace2},
)


class HeadSettings(KindSettings, registry=HEADS, default="aam_softmax"):
    """Classification head; its margins belong to a phase."""

    sharded: bool = False
    """Classes shared out over several processes; pays from about 100,000."""
    classes_per_chunk: int = Field(32_768, ge=1)
    """Classes whose logits are computed at once; more classes come in chunks of as many."""

    @model_validator(mode="after")
    def _shardable(self) -> HeadSettings:
        if self.sharded and not issubclass(self.chosen_class, ShardableHead):
            able = ", ".join(name for name, entry in HEADS.items() if issubclass(entry, ShardableHead))
            raise ValueError(f"sharded: head '{self.kind}' cannot be sharded, those that can are: {able}")
        return self


def build_head(settings: HeadSettings, embedding_size: int, num_classes: int) -> Head:
    """The chosen head for embeddings of size E and C classes."""
    head: Head = settings.chosen_class(embedding_size, num_classes, settings.chosen)
    return head
