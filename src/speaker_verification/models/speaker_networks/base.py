"""Base class of the speaker networks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

import speaker_verification.common.settings_base as settings_base


class SpeakerNetwork(nn.Module):
    """Pooling network from frames (B, C, T) to an embedding (B, E).

    `forward` takes one sequence of frames for each name in `inputs`; every one of them has a layer
    aggregation of its own. A subclass is built as `Network(width, settings)`: C, and its own settings.
    """

    Settings: ClassVar[type[settings_base.Settings]]
    """Parameters of the network, all with defaults."""
    inputs: ClassVar[tuple[str, ...]] = ("frames",)
    """Names of the sequences of frames."""
    minimum_frames: ClassVar[int] = 1
    """Smallest number of frames T that has an embedding."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size

    def loss_input(self, embeddings: Tensor) -> Tensor:
        """Input of the head in training, (B, E), computed from embeddings (B, E)."""
        return embeddings

    def attention_weights(self, *_inputs: Any, **_named: Any) -> Tensor | None:
        """Weights of the frames, from the inputs of `forward`; None where all frames weigh the same."""
        return None
