"""What all speaker networks have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class SpeakerNetwork(nn.Module):
    """From frames (B, C, T) to an embedding (B, E).

    `forward` takes one sequence of frames for each name in `inputs`; every one of them has a layer
    aggregation of its own.
    """

    inputs: ClassVar[tuple[str, ...]] = ("frames",)
    minimum_frames: ClassVar[int]
    """Fewest frames T that have an embedding."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size

    def loss_input(self, embeddings: Tensor) -> Tensor:
        """What the margin head sees of embeddings (B, E) while training, of the same shape."""
        return embeddings

    def attention_weights(self, *_inputs: Any, **_named: Any) -> Tensor | None:
        """Weights of the frames, from what `forward` takes; None where all frames weigh the same."""
        return None
