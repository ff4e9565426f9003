"""Pages of the site for the repository's files outside of docs/ that pages link to.

On a code host such a link shows the file. Here it leads to a page with the file's highlighted text, or to the
page that includes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

REPOSITORY = Path(__file__).parents[2]
INCLUDED = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
}


class LinksToRepositoryFiles(SphinxTransform):
    """References to pages of the site in place of downloads of the repository's files."""

    default_priority = 10

    def apply(self, **kwargs: Any) -> None:
        """Replace the references of one document."""
        for node in list(self.document.findall(addnodes.download_reference)):
            self._lead_to_page(node, Path(self.env.doc2path(self.env.docname)).parent / node["reftarget"])
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") == "doc":  # a page of Markdown, by its path without the ending
                self._lead_to_page(node, Path(f"{node['reftarget']}.md"))

    def _lead_to_page(self, node: nodes.Element, path: Path) -> None:
        file = path.resolve()
        is_page = file.suffix == ".md" and file.is_relative_to(self.env.srcdir)
        if is_page or not file.is_file() or not file.is_relative_to(REPOSITORY):
            return
        name = file.relative_to(REPOSITORY).as_posix()
        if name not in INCLUDED:
            linked_files(self.env).setdefault(self.env.docname, set()).add(name)
        address = self.app.builder.get_relative_uri(self.env.docname, INCLUDED.get(name, f"files/{name}"))
        node.replace_self(nodes.reference("", "", *node.children, refuri=address, internal=True))


def linked_files(env: BuildEnvironment) -> dict[str, set[str]]:
    """Names of the repository's files by the document that links to them."""
    if not hasattr(env, "linked_files"):
        env.linked_files = {}
    files: dict[str, set[str]] = env.linked_files
    return files


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop the links of a document that is read again."""
    linked_files(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment) -> None:
    """Add the links that a parallel process has read."""
    linked_files(env).update({name: files for name, files in linked_files(other).items() if name in docnames})


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for every linked file."""
    for name in sorted({name for names in linked_files(app.env).values() for name in names}):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        is_notebook = name.endswith(".ipynb")
        language = "python" if is_notebook else get_lexer_for_filename(name).aliases[0]
        code = app.builder.highlighter.highlight_block(script_of(text) if is_notebook else text, language)
        yield f"files/{name}", {"title": name, "body": f"<h1>{name}</h1>\n{code}"}, "page.html"


def script_of(notebook: str) -> str:
    """Cells of a notebook as one script, with its text as comments."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        is_text = cell["cell_type"] == "markdown"
        parts.append("\n".join(f"# {line}" for line in source.splitlines()) if is_text else source)
    return "\n\n".join(parts) + "\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and the pages."""
    app.add_transform(LinksToRepositoryFiles)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
