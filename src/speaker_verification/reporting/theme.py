"""Look of all figures: colours, line styles, grid, and the title and summary that each of them carries.

Colours are those of M. Okabe and K. Ito that stand out on white and on black; lines differ in style as well.
Paper is transparent, ink and grid are neutral: a figure can be read on a light and on a dark page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
INK = "#7b818a"  # as far from white as from black
GRID = "rgba(128, 128, 128, 0.25)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SUMMARY = "summary"  # key of a figure's `layout.meta`


def colour(place: int) -> str:
    """Colour of the line at a place, from 0."""
    return COLOURS[place % len(COLOURS)]


def line(place: int) -> dict[str, Any]:
    """Colour and style of the line at a place, from 0."""
    return {"color": colour(place), "dash": DASHES[place % len(DASHES)], "width": 2}


def translucent(colour: str, opacity: float) -> str:
    """A colour of this theme with an opacity, for areas."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


def finish(figure: go.Figure, title: str, summary: str, *, height: int = 420) -> go.Figure:
    """The figure with its title, its summary and the look of all figures; the legend below it.

    Args:
        figure: figure whose axes have their titles.
        title: title.
        summary: one or two sentences on the content, for readers who do not see it.
        height: height in pixels.
    """
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zerolinecolor": GRID,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_annotations(font={"color": INK, "size": 13})
    return figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}},
        meta={SUMMARY: summary},
        height=height,
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": FONT, "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"},
        margin={"l": 56, "r": 16, "t": 56, "b": 56},
        hoverlabel={"font": {"family": FONT}},
    )


def plain(text: str) -> str:
    """Text for titles, names and hover labels, in which Plotly would read tags and links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
