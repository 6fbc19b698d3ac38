"""The pages build as a site without a warning, and every link leads somewhere."""

import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import pytest
from builders import ROOT

from espnet_mtkd import streaming, student

pytest.importorskip("sphinx")


class Page(HTMLParser):
    """Of an HTML file what it links to, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")}
        names = {"a": "href", "img": "src", "script": "src", "link": "href"}
        if target := attrs.get(names.get(tag, "")):
            self.links.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    result = subprocess.run(
        [*command, "-d", out / "trees", ROOT / "docs", out / "html"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {x: Page(x) for x in (out / "html").rglob("*.html")}


def test_every_page_is_reached_from_the_index(site):
    (index,) = [x for x in site if x.name == "index.html" and x.parent.name == "html"]
    known = {*index.parent.glob("*.html"), *index.parent.glob("recipes/*.html")}
    made = {"genindex.html", "search.html", "py-modindex.html", "index.html"}
    linked = {(index.parent / x.split("#")[0]).resolve() for x in site[index].links}
    assert {x for x in known if x.name not in made} <= linked


def test_every_link_leads_somewhere(site):
    dead = []
    for path, page in site.items():
        for link in page.links:
            target = urllib.parse.urlparse(link)
            if target.scheme or target.netloc:
                continue
            there = (path.parent / target.path).resolve() if target.path else path
            anchor = urllib.parse.unquote(target.fragment)
            if not there.exists() or (
                anchor and there in site and anchor not in site[there].anchors
            ):
                dead.append((path.name, link))
    assert dead == []


def test_what_is_public_is_in_the_reference(site):
    (page,) = [x for x in site if x.name == "api.html"]
    text = page.read_text(encoding="utf-8")
    for name in (*streaming.__all__, *student.__all__):
        assert re.search(rf'id="espnet_mtkd[\w.]*\.{name}"', text), name


def test_pages_load_nothing_from_elsewhere(site):
    """The site can be read without a network."""
    for path in site:
        for tag in re.findall(r"<(?:script|link|img)\b[^>]*>", path.read_text("utf-8")):
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), (path, tag)
