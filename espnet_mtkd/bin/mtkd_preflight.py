#!/usr/bin/env python3
"""Teachers' files and data directories, in seconds, before a recipe begins.

Example:
    python -m espnet_mtkd.bin.mtkd_preflight --teachers conf/teachers.yaml \\
        --data_dir data/train data/dev
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import report_errors


def get_parser() -> argparse.ArgumentParser:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", help="YAML list of teachers; none is loaded")
    parser.add_argument(
        "--data_dir",
        type=Path,
        nargs="*",
        default=[],
        help="Kaldi data directories, as local/data.sh makes them",
    )
    parser.add_argument(
        "--ends",
        type=Path,
        nargs="*",
        default=[],
        help="Data directories whose audio files are not to end too early",
    )
    parser.add_argument("--license", help="Of the model that is to be packed")
    parser.add_argument("--asr_config", type=Path, help="Config of stage 2")
    parser.add_argument(
        "--lengths",
        type=Path,
        nargs="*",
        default=[],
        help="utt2num_samples of what the student of --asr_config is trained on",
    )
    parser.add_argument(
        "--distinct",
        type=Path,
        nargs="*",
        default=[],
        help="Data directories that are to become one, so that no id may be in two",
    )
    parser.add_argument(
        "--keep_teachers", help="What mtkd.sh has as --keep_teachers, to be read"
    )
    return parser


@report_errors
def main(cmd=None):
    """Run the command line `cmd` (default: sys.argv)."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.data.check import check_data_dirs, check_distinct, check_ends
    from espnet_mtkd.teachers.base import check_files, parse_teachers

    if args.teachers:
        for teacher in parse_teachers(args.teachers):
            check_files(teacher)
    if args.keep_teachers:
        from espnet_mtkd.transducer.kept_options import parse_kept_words

        parse_kept_words(args.keep_teachers.split())
    if args.license is not None:
        from espnet_mtkd.publish.licences import hub_licence

        hub_licence(args.license, "--license")
    check_data_dirs(args.data_dir)
    check_distinct(args.distinct)
    for data_dir in args.ends:
        check_ends(data_dir)
    if args.lengths:
        from espnet_mtkd.student.lengths import check_lengths

        check_lengths(args.asr_config, args.lengths)


if __name__ == "__main__":
    main()
