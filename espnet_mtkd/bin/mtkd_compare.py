"""By how many points of WER one row is better than another, and how sure that is.

Paired bootstrap by speaker: the same speakers are drawn for both rows.

Example:
    python -m espnet_mtkd.bin.mtkd_compare exp/asr_conformer_teachers_stored \\
        exp/asr_conformer_teacher_whisper_base --seeds 0 1
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors


def get_parser():
    """Command line of the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", type=Path, help="directory of stage 2 that is scored")
    parser.add_argument("other", type=Path, help="that it is compared with")
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=["0"],
        help="of both rows; that of seed N, not 0, is in <directory>_seedN, as the "
        "ladder calls it (default: 0)",
    )
    return parser


@report_errors
def main(cmd=None):
    """Print a table, and a sentence for each test set."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.results.compare import cells, compare
    from espnet_mtkd.results.tables import table

    rows = []
    for folder in (args.row, args.other):
        exps = [
            folder if seed == "0" else folder.with_name(f"{folder.name}_seed{seed}")
            for seed in dict.fromkeys(args.seeds)
        ]
        for exp in exps:
            if not exp.is_dir():
                raise ConfigError(f"no such directory: {exp}")
        rows.append(exps)
    lines = []
    for found in compare(*rows):
        lines.append([found.dset, *cells(found)])
        verb = "better" if found.points >= 0 else "worse"
        text = (
            f"{args.row} is {verb} than {args.other} by {abs(found.points):.1f} points"
        )
        if found.interval is not None:
            low, high = sorted(x if found.points >= 0 else -x for x in found.interval)
            text += f" [{low:.1f}, {high:.1f}], p {lines[-1][3]}"
        print(f"{found.dset}: {text} ({found.drawn})")
    columns = ["set", "better by / points:", "95 % interval:", "p:"]
    print("\n" + table([*columns, "seed by seed", "drawn"], lines))


if __name__ == "__main__":
    main()
