"""Pictures in the colours of the page: beside `NAME.svg`, `NAME.dark.svg` is shown where the page is dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class TwoColouredPictures(SphinxTransform):
    """A second image for every image that has a dark twin."""

    default_priority = 10

    def apply(self, **kwargs: Any) -> None:
        """Add the images of one document."""
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for image in list(self.document.findall(nodes.image)):
            dark = image["uri"].removesuffix(".svg") + ".dark.svg"
            if (folder / dark).is_file():
                image["classes"].append("only-light")
                attributes = {name: image[name] for name in ("alt", "width") if name in image}
                image.parent.insert(
                    image.parent.index(image) + 1,
                    nodes.image(uri=dark, classes=["only-dark"], **attributes),
                )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(TwoColouredPictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
