"""Prove that teachers and audio are fit for training, before any of it is spent.

Loads every teacher once and prints what it gives; reads every audio file once and
writes the lengths of the usable ones.

Example:
    python -m espnet_mtkd.bin.mtkd_doctor --teachers conf/teachers.yaml \\
        --data_dir dump/raw/train dump/raw/valid --out_dir exp/mtkd_stats --nj 4
"""

import argparse
import logging
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors


def get_parser():
    """Command line of the doctor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", help="YAML file (or string) with the teachers")
    parser.add_argument(
        "--data_dir", nargs="+", default=[], help="Kaldi data directories to check"
    )
    parser.add_argument(
        "--out_dir",
        help="<out_dir>/<name of data_dir>/speech_shape is written for each data_dir",
    )
    parser.add_argument("--nj", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--list_upstreams", action="store_true", help="print all upstream names"
    )
    return parser


@report_errors
def main(cmd=None):
    """Check what the flags name; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.list_upstreams:
        from espnet_mtkd.teachers.hub import import_s3prl_hub, upstream_names

        print("\n".join(upstream_names(import_s3prl_hub())))
        return
    if args.data_dir and not args.out_dir:
        raise ConfigError("--data_dir needs --out_dir")
    if not args.teachers and not args.data_dir:
        raise ConfigError("nothing to do: give --teachers, --data_dir, or both")
    teachers = []
    if args.teachers:
        from espnet_mtkd.teachers.health import check_teachers

        teachers = check_teachers(args.teachers)
        tell_licences(teachers)
    if args.data_dir:
        check_data(teachers, list(map(Path, args.data_dir)), args)


def tell_licences(teachers: list) -> None:
    """Print of each teacher its licence, where known, and if it is a supervised one.

    Args:
        teachers: loaded ones.
    """
    from espnet_mtkd.publish.teachers import find_origin

    for teacher in teachers:
        config = teacher.config
        origin = find_origin(config.upstream, config.path_or_url)
        learnt = "; it has learnt from transcripts" if origin.is_supervised else ""
        print(f"teacher {config.name}: licence {origin.licence}{learnt}")


def check_data(teachers: list, data_dirs: list[Path], args) -> None:
    """Look at all audio; print what targets would take and how they are distributed.

    Args:
        teachers: loaded ones.
        data_dirs: Kaldi data directories; the distribution is that of the first.
        args: the command line.
    """
    from espnet_mtkd.data.audio import prepare_audio
    from espnet_mtkd.data.listed import note_listed, refuse_long
    from espnet_mtkd.targets.plan import disk_need
    from espnet_mtkd.targets.tails import describe_tails
    from espnet_mtkd.teachers.s3prl import check_length

    for number, data_dir in enumerate(data_dirs):
        lengths, files = prepare_audio(data_dir, Path(args.out_dir), args.nj)
        refuse_long(data_dir / "wav.scp", lengths)
        listed = {utt: files[utt] for utt in lengths}
        note_listed(data_dir / "wav.scp", listed, lengths)
        for teacher in teachers:
            check_length(teacher, lengths.values(), list(lengths))
        if teachers:
            print(f"{data_dir}: {disk_need(teachers, sum(lengths.values()))}")
        for teacher in teachers if number == 0 else []:
            for line in describe_tails(teacher, lengths, files):
                print(f"{data_dir}: {line}")


if __name__ == "__main__":
    main()
