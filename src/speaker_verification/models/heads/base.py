"""Base class of the classification heads: their contract with the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor, nn

import speaker_verification.common.settings_base as settings_base
from speaker_verification.common.errors import ParameterError

if TYPE_CHECKING:
    from speaker_verification.models.heads.sharding import ClassShard


class Margins(NamedTuple):
    """Margins of one step, as the phase's schedule gives them.

    `target` is in radians, or a cosine where the head subtracts it; `top_k_penalty` is in radians.
    """

    target: float
    top_k: int
    top_k_penalty: float


class HeadOutput(NamedTuple):
    """Mean loss over the batch, a scalar, and the predicted class of every example, (B,)."""

    loss: Tensor
    predictions: Tensor


class Head(nn.Module):
    """Classification head over the training speakers, used in training only.

    `forward(embeddings, labels, margins)` takes (B, E), (B,) and `Margins`, and gives a `HeadOutput`. It
    computes in float32 (float64 for float64 embeddings) whatever the autocast: near 1 a cosine in bfloat16
    has two digits. A subclass is built as `Head(embedding_size, num_classes, settings)`; a checkpoint keeps
    its kind, its settings, C, the speeds of its classes and its weights.

    Args:
        embedding_size: E.
        num_classes: C.
    """

    Settings: ClassVar[type[settings_base.Settings]]
    """Parameters of the head, all with defaults."""
    has_top_k_penalty: ClassVar[bool] = False
    """Whether the inter-top-k penalty of the margins applies; without it `top_k` must be 0."""
    class_dim: ClassVar[int | None] = None
    """Dimension of the classes in `weight`, where E is the last of the others; None: not in one `weight`."""
    class_speeds: tuple[float, ...] = (1.0,)
    """Speed factors of the classes: at each of them all speakers, in their order."""
    shard: ClassShard | None = None
    """Classes that this process holds, where it does not hold all."""

    def __init__(self, embedding_size: int, num_classes: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.num_classes = num_classes

    def distribute(self, sharded: bool, classes_per_chunk: int) -> None:
        """Share out the classes, where the head can (see sharding.py).

        Args:
            sharded: keep this process's share of the classes alone.
            classes_per_chunk: number of classes whose logits are computed at once.
        """

    @property
    def sharded_parameters(self) -> list[nn.Parameter]:
        """Parameters of which every process holds another part."""
        return []

    @classmethod
    def check_top_k(cls, top_k: int, num_classes: int | None = None) -> None:
        """Refuse a number of penalised classes that the head cannot serve.

        Args:
            top_k: number of penalised classes.
            num_classes: C, where it is known.

        Raises:
            ParameterError: the head has no penalty, or `top_k` is not below C.
        """
        if top_k and not cls.has_top_k_penalty:
            raise ParameterError(
                f"parameter 'top_k' is {top_k}: {cls.__name__} has no inter-top-k penalty, set it to 0"
            )
        if num_classes is not None and top_k >= num_classes:
            raise ParameterError(f"parameter 'top_k' is {top_k}: it must be below the {num_classes} classes")
