"""Self-contained HTML pages from templates: one file with its style, its figures and their program.

A page extends `base.html.j2`, fills its blocks `title`, `heading` and `content`, and places figures by
`{{ place(figure) }}`. Plotly is embedded once, if a figure was placed. All values are escaped.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from speaker_verification.reporting import numbers, theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTS = '<script type="application/json"'  # in front of the content of every figure


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("speaker_verification.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["place"] = place
    environment.filters |= {
        name: getattr(numbers, name) for name in ("count", "decimals", "interval", "percent", "joined")
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Page from a template of this package.

    Args:
        template: name of the template, such as `evaluation.html.j2`.
        **values: values of its names.
    """
    page = _environment().get_template(template).render(**values)
    if PLOTS not in page:
        return page
    from plotly.offline import get_plotlyjs

    script, marker = _environment().get_template("figures.js.j2").render(), "</body>"
    program = f"<script>{get_plotlyjs()}</script>\n<script>{script}</script>\n"
    before, after = page.rsplit(marker, 1)
    return f"{before}{program}{marker}{after}"


def place(figure: go.Figure) -> Markup:
    """Figure element: the title as its caption, and the rest for the page's program to draw."""
    content: dict[str, Any] = json.loads(figure.to_json(engine="json"))
    layout = content["layout"]
    title = layout.pop("title")["text"]
    layout.pop("template", None)
    layout["margin"] = {**layout["margin"], "t": 30 if layout.get("annotations") else 12}
    plain = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "caption": Markup(title).unescape(),
        "summary": layout["meta"][theme.SUMMARY],
        "height": layout["height"],
        "content": Markup(plain),
    }
    return Markup(_environment().get_template("figure.html.j2").render(**values))
