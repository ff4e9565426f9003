"""Weights of the encoder's states, on average and over the time of an utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from speaker_verification.reporting import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

STATE_AXIS = "Encoder state (0: input of the first block)"
NARROW_STATE_AXIS = "State (0: input)"
WEIGHT = "Weight (0 to 1)"
STATE_PIXELS = 14


def layer_weight_figure(mean: pd.DataFrame) -> go.Figure:
    """Mean weight of each state, with the span of most frames where the weights depend on the input.

    Args:
        mean: table `mean` of `layer_weights.LayerWeights`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    heaviest = []
    for number, (sequence, rows) in enumerate(mean.groupby("sequence", sort=False)):
        spread = {"array": rows["high"] - rows["weight"], "arrayminus": rows["weight"] - rows["low"]}
        varies = bool((rows["high"] - rows["low"]).max() > 1e-6)
        figure.add_bar(
            x=rows["state"],
            y=rows["weight"],
            error_y={**spread, "color": theme.INK, "thickness": 1, "width": 3} if varies else None,
            name=theme.plain(str(sequence)),
            marker={"color": theme.colour(number), "line_width": 0},
            hovertemplate="state %{x}: %{y:.3f}",
        )
        heaviest.append(f"{sequence}: state {rows['state'].iloc[int(rows['weight'].argmax())]}")
    figure.update_layout(
        xaxis={"title": STATE_AXIS, "dtick": 1 if len(mean) < 40 else None},
        yaxis={"title": WEIGHT, "rangemode": "tozero"},
        bargap=0.5,
    )
    summary = f"Weight of each encoder state. The heaviest, {'; '.join(heaviest) or 'none known'}."
    figure.update_layout(showlegend=mean["sequence"].nunique() > 1)
    return theme.finish(figure, "Weights of the encoder's states", summary, height=360)


def layer_time_figure(over_time: pd.DataFrame, sequence: str, utterance_id: str) -> go.Figure:
    """Weights of the states over the time of an utterance.

    Args:
        over_time: table `over_time` of `layer_weights.LayerWeights`.
        sequence: sequence of frames that the aggregation makes.
        utterance_id: utterance.
    """
    import plotly.graph_objects as go

    rows = over_time[(over_time["sequence"] == sequence) & (over_time["utterance_id"] == utterance_id)]
    weights = rows.pivot(index="state", columns="seconds", values="weight")
    figure = go.Figure()
    figure.add_heatmap(
        x=weights.columns,
        y=weights.index,
        z=weights.to_numpy(),
        colorscale="Cividis",
        colorbar={
            "title": {"text": WEIGHT, "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "outlinewidth": 0,
        },
        hovertemplate="state %{y} at %{x:.2f} s: %{z:.3f}<extra></extra>",
    )
    figure.update_layout(xaxis={"title": "Time (s)"}, yaxis={"title": NARROW_STATE_AXIS})
    summary = f"Weights of {len(weights)} encoder states over {rows['seconds'].max():.1f} s of one utterance."
    height = 240 + STATE_PIXELS * len(weights)
    title = f"Weights over time, {theme.plain(utterance_id)}"
    return theme.finish(figure, title, summary, height=height)
