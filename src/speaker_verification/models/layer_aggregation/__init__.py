"""Aggregation of the L+1 states of an encoder to one sequence of frames."""

from __future__ import annotations

from speaker_verification.models.layer_aggregation.lap import LayerAttentivePooling
from speaker_verification.models.layer_aggregation.weighted_sum import WeightedSum
from speaker_verification.models.settings import LayerAggregationSettings

LayerAggregation = WeightedSum | LayerAttentivePooling


def build_layer_aggregation(
    settings: LayerAggregationSettings, num_states: int, width: int
) -> LayerAggregation:
    """The chosen aggregation of L+1 states of a width D.

    Raises:
        ParameterError: the settings do not fit the width.
    """
    if settings.kind == "weighted_sum":
        return WeightedSum(num_states)
    return LayerAttentivePooling(num_states, width, **settings.lap.model_dump())
