"""Matplotlib's figures as SVG for a page: its text, and its colours, are the page's.

A figure is drawn with the stand-ins of `COLORS`; in the page they are CSS variables, so
one picture serves light and dark. Text stays text and has the page's font.
"""

import contextlib
import html
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

SERIES = [f"series-{i}" for i in range(1, 9)]
NAMES = ["ink", "muted", "grid", "surface", "accent", *SERIES]
COLORS = {name: f"#0a0b{i:02x}" for i, name in enumerate(NAMES, 16)}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
WIDTHS = {"wide": 9.0, "narrow": 3.55}  # inches
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": COLORS["ink"],
    "axes.labelcolor": COLORS["muted"],
    "axes.edgecolor": COLORS["grid"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {[COLORS[x] for x in SERIES]})",
    "figure.facecolor": "none",
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.6,
    "text.color": COLORS["ink"],
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


class Tips:
    """What is said of a mark when a pointer rests on it."""

    def __init__(self):
        self.texts: dict[str, str] = {}

    def add(self, artist, text: str) -> None:
        """Give one artist of the figure a text."""
        name = f"tip{len(self.texts)}"
        artist.set_gid(name)
        self.texts[name] = text


def render(name: str, alt: str, draw: Callable) -> str:
    """A chart in two widths, of which the page's style shows one.

    Args:
        name: of the chart, unique on the page: ids begin with it.
        alt: what it shows, for those who do not see it.
        draw: `draw(plt, width, is_narrow, tips)` -> figure, `width` in inches.

    Returns:
        HTML, with all text escaped.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    parts = []
    for kind, width in WIDTHS.items():
        tips = Tips()
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": name + kind}):
            figure = draw(plt, width, kind == "narrow", tips)
            with contextlib.closing(io.BytesIO()) as buffer:
                figure.savefig(
                    buffer, format="svg", bbox_inches="tight", pad_inches=0.02
                )
                text = buffer.getvalue().decode()
            plt.close(figure)
        parts.append(_inline(text, f"{name}-{kind}", alt, kind, tips.texts))
    name = html.escape(name)
    return f'<figure class="chart" id="chart-{name}">{"".join(parts)}</figure>'


def _inline(text: str, prefix: str, alt: str, kind: str, tips: dict[str, str]) -> str:
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(text)
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata":
            root.remove(child)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("class", kind)
    for element in root.iter():
        found = tips.get(element.get("id", ""))
        if found:
            title = ET.Element(f"{{{SVG}}}title")
            title.text = found
            element.insert(0, title)
        if "id" in element.attrib:
            element.set("id", f"{prefix}-{element.get('id')}")
        for key, value in element.attrib.items():
            value = re.sub(r"url\(#", f"url(#{prefix}-", value)
            if key == f"{{{XLINK}}}href":
                value = value.replace("#", f"#{prefix}-", 1)
            if key == "style":
                value = _style(value)
            element.set(key, value)
    return ET.tostring(root, encoding="unicode")


def _style(value: str) -> str:
    """Stand-ins become variables; the font's family, the page's."""
    for name, color in COLORS.items():
        value = value.replace(color, f"var(--{name})")
    return re.sub(r"font: ([^;]*?px)[^;]*", r"font-size: \1", value)
