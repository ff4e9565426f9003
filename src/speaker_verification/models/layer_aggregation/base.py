"""Base classes of the layer aggregations and of their settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import Settings
from speaker_verification.models.faults import Fault


class AggregationSettings(Settings):
    """Parameters of a layer aggregation; none, unless a subclass has some."""

    def frame_width(self, _num_states: int, width: int) -> int:
        """D', channels of a frame after the aggregation of L+1 states of width D."""
        return width

    def faults(self, width: int) -> Iterator[Fault]:
        """Parameters that do not fit states of width D."""
        yield from ()


class LayerAggregation(nn.Module):
    """Aggregation of the L+1 states (B, T, D) of an encoder to one sequence of frames (B, D', T).

    A subclass is built as `Aggregation(num_states, width, settings)`.

    Args:
        num_states: L+1.
        width: D, channels of a state.
        settings: parameters of the aggregation.

    Raises:
        ParameterError: a parameter does not fit the width.
    """

    Settings: ClassVar[type[AggregationSettings]]
    """Parameters of the aggregation, all with defaults."""

    def __init__(self, num_states: int, width: int, settings: AggregationSettings) -> None:
        super().__init__()
        for fault in settings.faults(width):
            raise ParameterError(str(fault))

    def attention_weights(self, _states: Sequence[Tensor]) -> Tensor | None:
        """Weights of the states, from the input of `forward`; None where there are none."""
        return None
