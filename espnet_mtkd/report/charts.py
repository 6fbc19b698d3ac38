"""The pictures of a page, each from numbers that the page has as a table too."""

import textwrap
from collections.abc import Sequence

from espnet_mtkd.report.latency import Latency
from espnet_mtkd.report.outcomes import Outcome
from espnet_mtkd.report.svg import COLORS, SERIES, render
from espnet_mtkd.report.teachers import Added
from espnet_mtkd.report.training import Curve

LINE = 0.34  # inches for a line of a chart of rows
TEXT = 0.17  # inches for a line of text
LETTER = 0.068  # inches, of a letter, on average
STYLES = ["-", (0, (4, 2)), (0, (1, 1.5))]  # of lines, where there are no more colours


def _letters(width: float) -> int:
    """That have room in `width` inches."""
    return max(10, int(width / LETTER))


def fold(text: str, width: float) -> str:
    """A title in lines of at most `width` inches; nothing of it is lost."""
    return textwrap.fill(text, _letters(width))


def shorten(text: str, width: float) -> str:
    """A title in one line of at most `width` inches; the table has all of it."""
    letters = _letters(width)
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


class _Legend:
    """Below a figure, in two columns where the titles have room for it.

    Attributes:
        height: that it adds to the figure, in inches.
    """

    def __init__(self, titles: Sequence[str], width: float, is_narrow: bool):
        room = width / 2 - 0.5  # without the line's sample
        fits = all(len(x) * LETTER <= room for x in titles)
        self._columns = 2 if fits and not is_narrow else 1
        self._labels = [fold(x, width / self._columns - 0.5) for x in titles]
        self.height = TEXT * sum(x.count("\n") + 1 for x in self._labels)

    def draw(self, figure, handles: Sequence) -> None:
        """Its lines are in the titles' order."""
        figure.legend(
            handles,
            self._labels,
            loc="outside lower left",
            ncols=self._columns,
            handlelength=1.6,
        )


def _series(i: int) -> dict:
    color = COLORS[SERIES[i % len(SERIES)]]
    return {"color": color, "linestyle": STYLES[i // len(SERIES) % len(STYLES)]}


def ladder(outcomes: Sequence[Outcome]) -> str:
    """WER of each row with its interval, a panel for each test set."""
    sets = list(dict.fromkeys(x.dset for x in outcomes))
    panels = [[x for x in outcomes if x.dset == dset] for dset in sets]
    ends = [e for x in outcomes for e in (*(x.wer_interval or ()), x.wer)]
    low, high = min(ends), max(ends)
    room = max(1.0, 0.06 * (high - low))

    def draw(plt, width, is_narrow, tips):
        lines = [_lines(panel) for panel in panels]
        if is_narrow:
            line = LINE * 1.55
        else:
            most = max(_label(x, width).count("\n") for x in outcomes) + 1
            line = max(LINE, TEXT * most + 0.08)
        heights = [line * len(x) + 0.1 for x in lines]
        figure, axes = plt.subplots(
            len(sets),
            1,
            figsize=(width, sum(heights) + 0.62 * len(sets)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for axis, dset, panel in zip(axes[:, 0], sets, lines, strict=True):
            _draw_rows(axis, panel, width, is_narrow, tips)
            axis.set_xlim(max(0.0, low - room), high + room * (3.2 if is_narrow else 2))
            axis.set_xlabel(f"WER / % on {dset}")
        return figure

    facts = "; ".join(
        f"{x.student + ': ' if x.student else ''}{x.label} on {x.dset}: {x.wer:.1f} %"
        + ("" if not x.wer_interval else " ({:.1f} to {:.1f})".format(*x.wer_interval))
        for x in outcomes
    )
    alt = f"Word error rates with 95 % intervals, lower is better. {facts}."
    return render("ladder", alt, draw)


def _lines(panel: Sequence[Outcome]) -> list[Outcome | str]:
    """Lines of a panel: a student's name, where there are several, then its rows."""
    students = list(dict.fromkeys(x.student for x in panel))
    lines: list[Outcome | str] = []
    for student in students:
        if len(students) > 1 and student:
            lines.append(student)
        lines += [x for x in panel if x.student == student]
    return lines


def _label(line: Outcome, width: float) -> str:
    """Of a row, left of a wide chart."""
    return fold(line.label, 0.3 * width)


def _draw_rows(
    axis, lines: Sequence[Outcome | str], width: float, is_narrow: bool, tips
) -> None:
    labels = []
    for y, line in enumerate(lines):
        if isinstance(line, str):
            axis.annotate(
                line,
                (0, y),
                xycoords=("axes fraction", "data"),
                va="center",
                weight="bold",
                annotation_clip=False,
            )
            labels.append("")
            continue
        is_base = line.is_first
        color = COLORS["muted" if is_base else "accent"]
        if line.wer_interval:
            axis.plot(
                line.wer_interval,
                [y, y],
                color=color,
                linewidth=4,
                alpha=0.35,
                solid_capstyle="butt",
            )
        (mark,) = axis.plot(
            [line.wer],
            [y],
            "o",
            color=color,
            markerfacecolor=COLORS["surface"] if line.streamed else color,
            markeredgewidth=1.6,
            markersize=6.5,
        )
        text = f"{line.label}: {line.wer:.1f} % WER"
        end = line.wer
        if line.wer_interval:
            text += ", 95 % interval {:.1f} to {:.1f}".format(*line.wer_interval)
            end = line.wer_interval[1]
        tips.add(mark, text)
        axis.annotate(
            f"{line.wer:.1f}",
            (end, y),
            (6, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if not is_base else "normal",
        )
        if is_narrow:
            axis.annotate(
                shorten(line.label, width),
                (0, y - 0.42),
                xycoords=("axes fraction", "data"),
                va="center",
                color=COLORS["muted"],
                annotation_clip=False,
            )
        labels.append("" if is_narrow else _label(line, width))
    axis.set_yticks(range(len(lines)), labels, color=COLORS["ink"])
    axis.set_ylim(len(lines) - 0.5, -0.9 if is_narrow else -0.6)
    axis.grid(False, axis="y")
    axis.spines["left"].set_visible(False)


def curves(
    name: str, found: dict[str, list[Curve]], label: str, titles: Sequence[str]
) -> str:
    """Validation curves, a panel for each quantity, a line for each training.

    Args:
        name: of the chart.
        titles: of all rows: each has one colour in all charts.
        found: title of a panel -> its lines.
        label: of the vertical axes.
    """
    shown = {x.run for lines in found.values() for x in lines}
    runs = [title for title in titles if title in shown]

    def draw(plt, width, is_narrow, tips):
        columns = 1 if is_narrow else min(3, len(found))
        num = -(-len(found) // columns)
        legend = _Legend(runs, width, is_narrow)
        figure, axes = plt.subplots(
            num,
            columns,
            figsize=(width, num * 2.1 + 0.25 + legend.height),
            squeeze=False,
            layout="constrained",
        )
        figure.get_layout_engine().set(h_pad=0.1, w_pad=0.08)
        for axis in axes.flat[len(found) :]:
            axis.set_axis_off()
        handles = {}
        for axis, (title, lines) in zip(axes.flat, found.items(), strict=False):
            for line in lines:
                (drawn,) = axis.plot(
                    line.epochs,
                    line.values,
                    label=line.run,
                    **_series(titles.index(line.run)),
                )
                handles[line.run] = drawn
                (last,) = axis.plot(
                    line.epochs[-1:],
                    line.values[-1:],
                    "o",
                    markersize=4,
                    color=drawn.get_color(),
                )
                tips.add(
                    last, f"{line.run}, epoch {line.epochs[-1]}: {line.values[-1]:.3f}"
                )
            axis.set_title(fold(title, width / columns - 0.6))
            axis.set_ylabel(label)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(False, axis="x")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        legend.draw(figure, [handles[x] for x in runs])
        return figure

    ends = "; ".join(
        f"{title}: " + ", ".join(f"{x.run} {x.values[-1]:.3f}" for x in lines)
        for title, lines in found.items()
    )
    return render(name, f"{label} on the validation set by epoch. Last: {ends}.", draw)


def added(found: Sequence[Added]) -> str:
    """By how many points WER is lower with a teacher than without it."""

    def draw(plt, width, is_narrow, tips):
        step = LINE * (1.6 if is_narrow else 1.05)
        figure, axis = plt.subplots(
            figsize=(width, step * len(found) + 0.7), layout="constrained"
        )
        axis.axvline(0, color=COLORS["muted"], linewidth=0.8)
        for y, x in enumerate(found):
            if x.interval:
                axis.plot(
                    x.interval,
                    [y, y],
                    color=COLORS["accent"],
                    linewidth=4,
                    alpha=0.35,
                    solid_capstyle="butt",
                )
            (mark,) = axis.plot(
                [x.points], [y], "o", color=COLORS["accent"], markersize=6.5
            )
            tips.add(mark, f"{x.title}: {x.points:.1f} points")
            if is_narrow:
                axis.annotate(
                    shorten(x.title, width),
                    (0, y - 0.42),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    color=COLORS["muted"],
                    annotation_clip=False,
                )
        names = ["" if is_narrow else fold(x.title, 0.3 * width) for x in found]
        axis.set_yticks(range(len(found)), names, color=COLORS["ink"])
        axis.set_ylim(len(found) - 0.5, -0.9)
        axis.set_xlabel("points of WER that the teacher took away")
        axis.grid(False, axis="y")
        axis.spines["left"].set_visible(False)
        return figure

    facts = "; ".join(f"{x.title}: {x.points:.1f} points" for x in found)
    return render("added", f"What each teacher added, higher is better. {facts}.", draw)


def histogram(found: Sequence[Latency]) -> str:
    """How many words were shown how long after their sound, a panel for each row."""
    found = [x for x in found if x.bins]
    end = max(max(x.bins) + x.bin_ms for x in found)
    start = min(min(x.bins) for x in found)

    def draw(plt, width, is_narrow, tips):
        figure, axes = plt.subplots(
            len(found),
            1,
            figsize=(width, 1.15 * len(found) + 0.5),
            squeeze=False,
            sharex=True,
            layout="constrained",
        )
        for axis, x in zip(axes[:, 0], found, strict=True):
            total = sum(x.bins.values())
            axis.bar(
                list(x.bins),
                [100 * n / total for n in x.bins.values()],
                x.bin_ms * 0.92,
                align="edge",
                color=COLORS["accent"],
            )
            axis.set_title(shorten(x.title, width - 0.6))
            axis.set_ylabel("words / %")
            axis.set_xlim(start, end)
            axis.grid(False, axis="x")
        axes[-1, 0].set_xlabel("word latency, without computation / ms")
        return figure

    facts = "; ".join(f"{x.title}: median {x.median:.0f} ms" for x in found)
    return render("latency", f"Word latency of streaming rows. {facts}.", draw)


def wer_against_latency(found: Sequence[Latency]) -> str:
    """WER over the median latency of a word; the line ends at the 90th percentile."""

    def draw(plt, width, is_narrow, tips):
        legend = _Legend([x.title for x in found], width, is_narrow)
        figure, axis = plt.subplots(
            figsize=(width, (2.4 if is_narrow else 2.8) + legend.height),
            layout="constrained",
        )
        handles = []
        for i, x in enumerate(found):
            color = _series(i)["color"]
            axis.plot([x.median, x.p90], [x.wer, x.wer], color=color, alpha=0.5)
            (mark,) = axis.plot([x.median], [x.wer], "o", color=color, markersize=6.5)
            text = f"{x.wer:.1f} % WER, median {x.median:.0f} ms, p90 {x.p90:.0f} ms"
            tips.add(mark, f"{x.title}: {text}")
            handles.append(mark)
        axis.margins(0.15)
        axis.set_xlabel("word latency without computation, median to p90 / ms")
        axis.set_ylabel("WER / %")
        legend.draw(figure, handles)
        return figure

    facts = "; ".join(f"{x.title}: {x.wer:.1f} % at {x.median:.0f} ms" for x in found)
    return render("tradeoff", f"WER against latency. {facts}.", draw)
