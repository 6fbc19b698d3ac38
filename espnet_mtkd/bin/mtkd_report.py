"""Write RESULTS.md (WER, WERR, time of each stage) and curves.png of a recipe's rows.

Example:
    python -m espnet_mtkd.bin.mtkd_report --expdir exp \\
        --rows "conformer: from scratch=exp/asr_conformer_scratch" \\
               "conformer: two teachers=exp/asr_conformer_teachers"
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors


def get_parser():
    """Command line of the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expdir", type=Path, required=True, help="of the recipe")
    parser.add_argument(
        "--rows",
        nargs="+",
        required=True,
        metavar="NAME=DIR",
        help="'<encoder>: <what>=<asr exp>'; an encoder's first row is its baseline",
    )
    parser.add_argument(
        "--espnet_results",
        type=Path,
        help="output of ESPnet's show_asr_result.sh, to stand below the table",
    )
    parser.add_argument("--command", default="", help="that made the rows")
    parser.add_argument("--note", default="", help="a sentence below the table")
    return parser


@report_errors
def main(cmd=None):
    """Write the two files and print the table."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.files import write_atomically
    from espnet_mtkd.results import intervals, report

    rows = []
    for row in args.rows:
        name, equals, folder = row.rpartition("=")
        if not equals:
            raise ConfigError(f"--rows: expected NAME=DIR, found '{row}'")
        rows.append((name, Path(folder)))
    experiments = {folder.name for _, folder in rows}
    table = report.results_table(rows)
    report.plot_curves([folder for _, folder in rows], args.expdir / "curves.png")
    parts = [
        "# RESULTS",
        f"- command: `{args.command}`" if args.command else "",
        f"- machine: {report.machine()}",
        "## Error rates",
        "Error rates from sclite's counts; WERR and CERR: relative reduction against "
        "the student's first row.",
        table,
        args.note,
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
        report.times_table(args.expdir / "stage_times.tsv", experiments),
    ]
    if args.espnet_results:
        text = args.espnet_results.read_text(encoding="utf-8")
        text = report.espnet_sections(text, experiments)
        parts.append(text.replace("\n## ", "\n### ").replace("# RESULTS", "## ESPnet"))
    results = args.expdir / "RESULTS.md"
    text = "\n\n".join(p for p in parts if p) + "\n"
    write_atomically(results, text.encode())
    print(table)
    print(f"written: {results}, {args.expdir / 'curves.png'}")


if __name__ == "__main__":
    main()
