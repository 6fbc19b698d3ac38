"""Markdown tables."""

from collections.abc import Iterable, Sequence


def cell(text) -> str:
    """Text as it stands in a cell: on one line, with no bar that would end it."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table of GitHub's Markdown.

    Args:
        columns: titles; one that ends with ':' is of numbers, set to the right.
        rows: of as many cells each.
    """
    head = "| " + " | ".join(title.removesuffix(":") for title in columns) + " |"
    rule = "|".join("---:" if title.endswith(":") else "---" for title in columns)
    body = ("| " + " | ".join(map(cell, row)) + " |" for row in rows)
    return "\n".join([head, f"|{rule}|", *body])
