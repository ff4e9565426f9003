"""Configuration of the documentation: `sphinx-build -W -n docs site` builds it strictly."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "Speaker verification"
author = "The speaker-verification authors"
html_show_copyright = False

extensions = [
    "myst_parser",
    "readable_docstrings",
    "repository_files",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "two_coloured_pictures",
]
exclude_patterns = ["_site"]
default_role = "code"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    name: name.rpartition(".")[2]
    for name in (
        "npt.ArrayLike",
        "Fitted",
        "Source",
        "Statistics",
        "Waveform",
        "Metrics",
        "LocalPath",
        "Tensors",
    )
}
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
nitpick_ignore_regex = [("py:.*", r".*")]

html_theme = "pydata_sphinx_theme"
html_title = project
html_favicon = "_site/static/mark.svg"
html_logo = "_site/static/mark.svg"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_js_files = [("search_from_disk.js", {"priority": 200})]
templates_path = ["_site/templates"]
html_sidebars = {"**": ["sidebar-whole.html"]}
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": project},
    "navbar_center": [],
    "footer_start": [],
    "footer_end": [],
    "article_header_start": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 1,
    "search_bar_text": "Search",
    "use_edit_page_button": False,
}
copybutton_selector = "div.highlight-bash pre, div.highlight-python pre, div.highlight-yaml pre"
