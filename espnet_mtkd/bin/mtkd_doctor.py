"""Prove that teachers and audio are fit for training, before any of it is spent.

Loads every teacher once and prints what it gives; reads every audio file once and
writes the lengths of the usable ones.

Example:
    python -m espnet_mtkd.bin.mtkd_doctor --teachers conf/teachers.yaml \\
        --data_dir dump/raw/train dump/raw/valid --out_dir exp/mtkd_stats --nj 4
"""

import argparse
import logging
import time
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors

HEALTH_SECONDS = 4  # of noise, on which a teacher is tried


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


def check_teachers(teachers: str) -> list:
    """Load each teacher, try it on noise, and print one row for each of its targets.

    Args:
        teachers: see `parse_teachers`.

    Returns:
        The loaded teachers.

    Raises:
        ConfigError: a teacher cannot be loaded or gives values that are not finite.
    """
    import torch

    from espnet_mtkd.data.audio import SAMPLE_RATE
    from espnet_mtkd.teachers.base import parse_teachers
    from espnet_mtkd.teachers.hub import import_s3prl_hub
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher, check_upstream

    configs = parse_teachers(teachers)
    hub = import_s3prl_hub()
    for config in configs:
        check_upstream(config, hub)
    row = "{:24} {:16} {:>8} {:>8} {:>6} {:>8} {:>8} {:>9}"
    head = "target upstream params/M hidden dim shift/ms weight x-realtime"
    print(row.format(*head.split()))
    noise = torch.randn(1, HEALTH_SECONDS * SAMPLE_RATE) * 0.05
    length = torch.tensor([noise.size(1)])
    loaded = []
    for config in configs:
        teacher = S3PRLTeacher(config)
        loaded.append(teacher)
        start = time.perf_counter()
        out = teacher(noise, length)
        speed = HEALTH_SECONDS / (time.perf_counter() - start)
        for spec in teacher.targets:
            target, _ = out[spec.name]
            if not bool(target.isfinite().all()):
                raise ConfigError(
                    f"teacher '{config.name}': hidden state {spec.layer} of "
                    f"'{config.upstream}' is not finite on {HEALTH_SECONDS} s of noise:"
                    " the checkpoint is damaged, or needs a wider data type"
                )
            print(
                row.format(
                    spec.name,
                    config.upstream,
                    f"{teacher.num_parameters / 1e6:.1f}",
                    teacher.num_layers,
                    spec.dim,
                    f"{spec.frame_shift / SAMPLE_RATE * 1000:g}",
                    f"{spec.weight:g}",
                    f"{speed:.0f}",
                )
            )
    return loaded


def disk_need(teachers, num_samples: int) -> str:
    """What the targets would take on disk (`--teacher_mode cached`), as a sentence.

    Args:
        teachers: loaded ones.
        num_samples: of a data directory, at 16 kHz.
    """
    from espnet_mtkd.targets.plan import Settings

    specs = [spec for teacher in teachers for spec in teacher.targets]
    frames = [num_samples // spec.frame_shift for spec in specs]
    codes = Settings.num_codebooks
    fp16 = sum(2 * spec.dim * n for spec, n in zip(specs, frames, strict=True))
    return (
        f"{num_samples / 16000 / 3600:.2f} h; stored targets would take "
        f"{codes * sum(frames) / 1e6:.1f} MB as {codes} codes, {fp16 / 1e6:.1f} MB as "
        "fp16"
    )


@report_errors
def main(cmd=None):
    """Check what the flags name; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.list_upstreams:
        from espnet_mtkd.teachers.hub import import_s3prl_hub

        print("\n".join(sorted(import_s3prl_hub().options())))
        return
    if args.data_dir and not args.out_dir:
        raise ConfigError("--data_dir needs --out_dir")
    if not args.teachers and not args.data_dir:
        raise ConfigError("nothing to do: give --teachers, --data_dir, or both")
    teachers = check_teachers(args.teachers) if args.teachers else []
    if args.data_dir:
        from espnet_mtkd.data.audio import check_data_dir
        from espnet_mtkd.data.kaldi import read_lengths
        from espnet_mtkd.teachers.s3prl import check_length

        for data_dir in map(Path, args.data_dir):
            shape_file = Path(args.out_dir) / data_dir.name / "speech_shape"
            check_data_dir(data_dir, shape_file, args.nj)
            lengths = read_lengths(shape_file)
            for teacher in teachers:
                check_length(teacher, lengths.values(), list(lengths))
            if teachers:
                print(f"{data_dir}: {disk_need(teachers, sum(lengths.values()))}")


if __name__ == "__main__":
    main()
