"""RESULTS.md, put together from tables, and curves.png beside it."""

from pathlib import Path

from espnet_mtkd.files import write_atomically
from espnet_mtkd.results import intervals, report


def write_report(
    expdir: Path,
    rows: list[tuple[str, Path]],
    command: str = "",
    note: str = "",
    espnet_results: Path | None = None,
) -> str:
    """Write the two files of a recipe's rows.

    Args:
        expdir: of the recipe; `stage_times.tsv` is read from it.
        rows: as of `report.results_table`.
        command: that made the rows.
        note: a sentence below the table.
        espnet_results: output of ESPnet's show_asr_result.sh.

    Returns:
        The table of error rates.

    Raises:
        DataError: a row without scores, or two rows scored on different utterances.
    """
    experiments = {folder.name for _, folder in rows}
    table = report.results_table(rows)
    report.plot_curves([folder for _, folder in rows], expdir / "curves.png")
    parts = [
        "# RESULTS",
        f"- command: `{command}`" if command else "",
        f"- machine: {report.machine()}",
        "## Error rates",
        "Error rates from sclite's counts; WERR and CERR: relative reduction against "
        "the student's first row.",
        table,
        note,
        "## Intervals",
        "95 %, by bootstrap over the utterances of the set (9999 samples, seed 0), for "
        "the reduction with the same utterances drawn of both rows. How far another "
        "seed would lead is not in them.",
        intervals.intervals_table(rows),
        "## Cost",
        "RTF: seconds of one CPU core for a second of audio, with what ran beside it.",
        intervals.cost_table(rows),
        "## Training curves",
        "![losses](curves.png)",
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
