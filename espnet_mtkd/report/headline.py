"""What a page begins with: the strongest figure that can be relied on."""

from collections.abc import Sequence

from espnet_mtkd.report.outcomes import Outcome


def headline(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """One sentence on the row whose gain is surest, and what it holds for.

    Of the rows that have a baseline the one whose interval of the relative reduction
    begins highest; where none of them begins above 0, that is what is said. A row
    without errors has no interval and comes before all.

    Args:
        outcomes: of all rows and sets; at least one.
    """
    rivals = [x for x in outcomes if x.werr_interval is not None]
    perfect = [x for x in outcomes if x.baseline is not None and not x.wer]
    if perfect:  # of which no draw differs
        name = _name(perfect[0], outcomes)
        text = f"{name} makes no word error on {perfect[0].dset}: WER 0.0 %."
        return _join(text), _holds_for(perfect[0], None)
    if not rivals:
        best = min(outcomes, key=lambda x: x.wer)
        text = f"{_name(best, outcomes)}: WER {best.wer:.1f} % on {best.dset}."
        return _join(text), _holds_for(best, best.wer_interval)
    best = max(rivals, key=lambda x: x.werr_interval[0])
    name = _name(best, outcomes)
    low, high = best.werr_interval
    interval = f"(95 % interval {low:.1f} to {high:.1f} %)"
    if low <= 0:
        change = f"{abs(best.werr):.1f} % {'fewer' if best.werr >= 0 else 'more'}"
        text = (
            f"No row is surely better than “{best.baseline}”. Nearest to it: {name}, "
            f"WER {best.wer:.1f} % on {best.dset}, {change} word errors {interval}."
        )
    else:
        before = best.wer / (1 - best.werr / 100)
        text = (
            f"{name} makes {best.werr:.1f} % fewer word errors than "
            f"“{best.baseline}” on {best.dset} {interval}: WER {best.wer:.1f} % "
            f"instead of {before:.1f} %."
        )
    several = f" The surest of {len(rivals)} comparisons." if len(rivals) > 1 else ""
    return _join(text), _holds_for(best, best.werr_interval) + several


def _name(outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    """The row in quotation marks; its student too, where there are several."""
    several = len({x.student for x in outcomes}) > 1 and outcome.student
    name = f"{outcome.student}: {outcome.label}" if several else outcome.label
    return f"“{name}”"


def _holds_for(outcome: Outcome, interval) -> str:
    drawn = f" Interval {outcome.drawn}." if interval else ""
    return f"{outcome.dset}: {outcome.words:,} words.{drawn}"


def _join(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")
