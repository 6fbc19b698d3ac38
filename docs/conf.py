"""The pages as a site: sphinx-build -W docs docs/_build (pip install -e '.[docs]')."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from espnet_mtkd import __version__  # noqa: E402

project = "espnet_mtkd"
release = __version__
html_title = f"{project} {release}"
html_theme = "furo"
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "README.md"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units, which types do not
# ESPnet and s3prl import everything that exists; the pages need none of it.
autodoc_mock_imports = ["espnet2", "s3prl"]


RECIPES = {
    x: f"recipes/{x.parents[1].name}" for x in ROOT.glob("egs2/*/mtkd1/README.md")
}
PAGES = {x: x.stem for x in ROOT.glob("docs/*.md")} | RECIPES


def read_page(app, docname, source):
    """A recipe's page is its README; links lead to pages of the site, or are names."""
    files = {name: file for file, name in PAGES.items()}
    here = files[docname]
    if here in RECIPES:
        source[0] = here.read_text(encoding="utf-8")

    def link(match):
        text, target, anchor = match[1], match[2].strip(), match[3] or ""
        if "://" in target or not target:
            return match[0]
        page = PAGES.get((here.parent / target).resolve())
        if page is None:
            return f"`{text}`"
        return f"[{text}]({'../' * docname.count('/')}{page}.md{anchor})"

    source[0] = re.sub(r"(?<!!)\[([^]]*)\]\(([^)#]*)(#[^)]*)?\)", link, source[0])


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", read_page)
