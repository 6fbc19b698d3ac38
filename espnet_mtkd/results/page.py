"""RESULTS.md, put together from tables, and curves.png beside it."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.machine import machine
from espnet_mtkd.results import compare, intervals, report

INTERVALS = f"""\
95 %, by percentile bootstrap ({intervals.NUM_RESAMPLES} samples, seed 0), for the
reduction with the same draws of both rows. By speaker: whole speakers are drawn, for
the errors of one speaker are alike, and the interval tells what other speakers would
lead to. By utterance: it tells that of the speakers of this set alone. Empty: no
errors, or too few, or too few utterances. How far another seed would lead is not in
them."""

COMPARISONS = """\
By how many points of WER the row is better than the other: positive is better.
Interval and draws as above, the same draws for both rows; p, of two sides: twice the
share of the draws in which the difference is not above 0, or not below. Every p is of
one comparison by itself. Of several seeds the errors of each utterance are averaged
first, so the interval tells of other speakers, not of other seeds; seed by seed, the
first with the first, the differences stand beside it."""


def write_report(
    expdir: Path,
    rows: list[tuple[str, Path]],
    command: str = "",
    note: str = "",
    espnet_results: Path | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> str:
    """Write the two files of a recipe's rows.

    Args:
        expdir: of the recipe; `stage_times.tsv` is read from it, where it is there.
        rows: as of `report.results_table`.
        command: that made the rows.
        note: a sentence below the table.
        espnet_results: output of ESPnet's show_asr_result.sh.
        pairs: names of rows that are compared with each other.

    Returns:
        The table of error rates.

    Raises:
        ConfigError: no such directory or file.
        DataError: a row without scores, or two rows scored on different utterances.
    """
    if not expdir.is_dir():
        raise ConfigError(f"--expdir: no such directory: {expdir}")
    if espnet_results and not espnet_results.is_file():
        raise ConfigError(f"--espnet_results: no such file: {espnet_results}")
    experiments = {folder.name for _, folder in rows}
    table = report.results_table(rows)
    folders = [folder for _, folder in rows]
    without_curve = report.plot_curves(folders, expdir / "curves.png")
    comparisons = []
    if pairs:
        words = COMPARISONS.replace("\n", " ")
        comparisons = ["## Comparisons", words, compare.pairs_table(rows, pairs)]
    parts = [
        "# RESULTS",
        f"- command: `{command}`" if command else "",
        f"- machine, of this page: {machine()}",
        "## Error rates",
        "Error rates from sclite's counts; WERR and CERR: relative reduction against "
        "the student's first row, where that has the set and makes errors.",
        table,
        note,
        "## Intervals",
        INTERVALS.replace("\n", " "),
        intervals.intervals_table(rows),
        *comparisons,
        "## Cost",
        "RTF: seconds of one CPU core for a second of audio, with what ran beside it.",
        intervals.cost_table(rows),
        "## Training curves",
        "![losses](curves.png)",
        "No tensorboard files, so no curve: "
        + ", ".join(folder.name for folder in without_curve)
        if without_curve
        else "",
        "## Wall time",
        report.times_table(expdir / "stage_times.tsv", experiments),
    ]
    if espnet_results:
        text = espnet_results.read_text(encoding="utf-8")
        text = report.espnet_sections(text, experiments)
        parts.append(text.replace("\n## ", "\n### ").replace("# RESULTS", "## ESPnet"))
    text = "\n\n".join(p for p in parts if p) + "\n"
    write_atomically(expdir / "RESULTS.md", text.encode())
    return table
