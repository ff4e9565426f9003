"""Signatures and docstrings without what autodoc, napoleon and pydantic add to them."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

from speaker_verification.common.settings_base import Settings

COLON = "\N{PRESENTATION FORM FOR VERTICAL COLON}"  # stands in for colons while napoleon looks for types
INLINE = ("attribute", "property")


def shorten_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Show no arguments of settings, which their fields describe, and aliases of types by their names."""
    if isinstance(thing, type) and issubclass(thing, Settings):
        return "", None
    if signature is None:
        return None
    signature = re.sub("<function (.*?)>", r"\1", signature.replace("<factory>", "..."))
    return re.sub(r"~?(?:[\w.]+\.)?TypeAliasForwardRef\('([\w.]+)'\)", r"\1", signature), returned


def hide_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what an attribute's description has in front of a colon for its type."""
    if what in INLINE and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def skip_generated(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what pydantic and named tuples add to a class."""
    is_generated = name == "model_config" or str(thing.__doc__).startswith("Alias for field number")
    return True if is_generated else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handlers; napoleon's has priority 500."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
