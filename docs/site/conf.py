"""The site: README and the pages under docs as they are, and references made from the code.

`make site` builds it; a warning is an error. No page loads anything from another host.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import diagrams  # noqa: E402 -- beside this file
import references  # noqa: E402

project = "kshot"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/**",
    "bundle/kshot/bundle/builtin/*/*/README.md",
    "studies/results/**/*.md",
]
exclude_patterns = [".*", "build", "tests", "docs/site"]
html_theme = "furo"
html_title = "kshot"
html_show_sourcelink = False
html_copy_source = False
default_role = "code"  # docstrings write code between single backticks
myst_heading_anchors = 6
autodoc_member_order = "groupwise"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "imported-members": True}
suppress_warnings = ["myst.xref_missing"]  # folders; tests/layout/test_docs.py has the links

SECTIONS = {
    "Start": ["quick-start", "python", "which-bundle", "tutorial", "concepts", "glossary"],
    "Use": [
        "commands",
        "http",
        "languages",
        "choosing",
        "pictures",
        "deployment",
        "operations",
        "reliability",
        "../SECURITY",
    ],
    "Train": ["data", "recipes", "training", "evaluation"],
    "Reference": ["reference/python", "reference/commands", "reference/wire", "reference/learner"],
    "Understand": ["architecture", "method", "performance", "reproduction", "experiments"],
    "Change": ["decisions", "../CONTRIBUTING", "../CHANGELOG"],
    "Measured": ["../bundle/kshot/bundle/builtin/*/*/README", "../studies/results/**"],
}


def adapt_markdown(_app: Sphinx, name: str, source: list[str]) -> None:
    """Append the contents to README, and replace diagrams by pictures."""
    source[0] = diagrams.with_pictures(source[0])
    if name != root_doc:
        return
    for title, pages in SECTIONS.items():
        names = "\n".join(f"/docs/{page}" for page in pages).replace("/docs/../", "/")
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n{names}\n```\n"


def write_references(_app: Sphinx) -> None:
    """Write the pages of the reference, which git ignores."""
    references.write(ROOT / "docs" / "reference")


def skip_foreign(
    _app: Sphinx, _what: str, _name: str, member: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out the methods that scikit-learn adds to a classifier: its own pages have them."""
    return True if str(getattr(member, "__module__", "")).startswith("sklearn.") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps above."""
    app.connect("builder-inited", write_references, priority=1)
    app.connect("source-read", adapt_markdown)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
