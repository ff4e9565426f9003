"""Registry of the layer aggregations."""

from __future__ import annotations

from collections.abc import Iterator

from speaker_verification.common.registry import ClassRegistry, KindSettings
from speaker_verification.models.layer_aggregation.adapter_mfa import AdapterMfa
from speaker_verification.models.layer_aggregation.base import AggregationSettings, Fault, LayerAggregation
from speaker_verification.models.layer_aggregation.lap import LayerAttentivePooling
from speaker_verification.models.layer_aggregation.weighted_sum import WeightedSum

LAYER_AGGREGATIONS: ClassRegistry[type[LayerAggregation]] = ClassRegistry(
    "layer aggregation",
    LayerAggregation,
    {"lap": LayerAttentivePooling, "weighted_sum": WeightedSum, "adapter_mfa": AdapterMfa},
)


class LayerAggregationSettings(KindSettings, registry=LAYER_AGGREGATIONS, default="lap"):
    """Aggregation of L+1 states to one sequence of frames."""

    def frame_width(self, num_states: int, width: int) -> int:
        """D', channels of a frame after the aggregation of L+1 states of width D."""
        chosen: AggregationSettings = self.chosen
        return chosen.frame_width(num_states, width)

    def faults(self, width: int) -> Iterator[Fault]:
        """Parameters, by their names in this group, that do not fit states of width D."""
        for fault in self.chosen.faults(width):
            yield fault._replace(parameter=f"{self.group}.{fault.parameter}")


def build_layer_aggregation(
    settings: LayerAggregationSettings, num_states: int, width: int
) -> LayerAggregation:
    """The chosen aggregation of L+1 states of width D.

    Raises:
        ParameterError: the settings do not fit the width.
    """
    aggregation: LayerAggregation = settings.chosen_class(num_states, width, settings.chosen)
    return aggregation
