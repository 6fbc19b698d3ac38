"""Write RESULTS.md, curves.png and report.html of a recipe's rows.

RESULTS.md has the tables; report.html the same to look at, with charts, hypotheses and
audio, on one page that needs no network.

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
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar="NAME",
        help="names of two rows: by how many points is the first better?",
    )
    parser.add_argument("--command", default="", help="that made the rows")
    parser.add_argument("--note", default="", help="a sentence below the table")
    parser.add_argument(
        "--report_mb",
        default="10",
        metavar="MB",
        help="largest size of report.html, in millions of bytes; audio, of utterances "
        "that changed most first, fills what is left (default: 10)",
    )
    parser.add_argument(
        "--without_audio",
        action="store_true",
        help="for a page that is given away where the recordings may not be",
    )
    return parser


def check_seeds(rows: list[tuple[str, Path]]) -> None:
    """Refuse one directory as two seeds of a row.

    Raises:
        ConfigError: naming the row and the directory.
    """
    seen = set()
    for name, folder in rows:
        if (name, folder.resolve()) in seen:
            raise ConfigError(f"--rows: '{name}' has the directory {folder} twice")
        seen.add((name, folder.resolve()))


@report_errors
def main(cmd=None):
    """Write the three files and print the table."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.report.page import write_page
    from espnet_mtkd.report.size import read_megabytes
    from espnet_mtkd.results.page import write_report

    rows = []
    for row in dict.fromkeys(args.rows):
        name, equals, folder = row.partition("=")
        if not equals:
            raise ConfigError(f"--rows: expected NAME=DIR, found '{row}'")
        rows.append((name, Path(folder)))
    check_seeds(rows)
    max_mb = read_megabytes(args.report_mb)
    names = list(dict.fromkeys(name for name, _ in rows))
    for name in (x for pair in args.compare for x in pair):
        if name not in names:
            raise ConfigError(
                f"--compare: expected a name of --rows ({', '.join(names)}), found "
                f"'{name}'"
            )
    pairs = [tuple(pair) for pair in args.compare]
    print(
        write_report(
            args.expdir, rows, args.command, args.note, args.espnet_results, pairs
        )
    )
    words = (args.command, args.note, pairs, max_mb, not args.without_audio)
    page = write_page(args.expdir, rows, *words)
    print(
        f"written: {args.expdir / 'RESULTS.md'}, {args.expdir / 'curves.png'}, {page}"
    )


if __name__ == "__main__":
    main()
