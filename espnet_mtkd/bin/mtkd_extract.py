"""Store the teachers' targets, so that training reads them instead of running teachers.

Writes <out_dir>/<teacher>/<name of data_dir>/. A run that was stopped goes on where it
was; several processes share the work (torchrun, or --rank and --world_size in a job
array). docs/targets.md describes the files.

Example:
    python -m espnet_mtkd.bin.mtkd_extract --teachers conf/teachers.yaml \\
        --data_dir dump/raw/train dump/raw/valid --shape_dir exp/mtkd_stats \\
        --out_dir exp/mtkd_targets
    torchrun --nproc-per-node 8 -m espnet_mtkd.bin.mtkd_extract --ngpu 1 ...
    python -m espnet_mtkd.bin.mtkd_extract --out_dir exp/mtkd_targets --info --verify
"""

import argparse
import logging
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors
from espnet_mtkd.targets.process import (
    add_batch_arguments,
    add_process_arguments,
    make_settings,
)


def get_parser():
    """Command line of the extraction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teachers", help="YAML file (or string) with the teachers")
    add(
        "--data_dir",
        nargs="+",
        default=[],
        help="Kaldi data directories; codebooks are trained on the first",
    )
    add(
        "--shape_dir",
        help="where mtkd_doctor wrote <name of data_dir>/speech_shape; audio that it "
        "has not checked is checked (default: <out_dir>)",
    )
    add("--out_dir", required=True, help="of all targets")
    add(
        "--form",
        choices=["codes", "fp16"],
        default="codes",
        help="codes: one byte a codebook and frame; fp16: two bytes a dimension and "
        "frame (default: codes)",
    )
    add(
        "--num_codebooks",
        type=int,
        default=16,
        help="4 to 32, bytes a frame and layer (default: 16)",
    )
    add_batch_arguments(parser)
    add(
        "--shard_bytes",
        type=int,
        help="of a shard, at most (default: what makes 64, from 32 kB to 256 MB)",
    )
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of the teachers' computation; auto: bfloat16 on a GPU, float32 on the "
        "CPU (default: auto)",
    )
    add_process_arguments(parser)
    add("--info", action="store_true", help="print what <out_dir> holds")
    add("--verify", action="store_true", help="compare all files with their sha256")
    return parser


@report_errors
def main(cmd=None):
    """Extract, show or verify; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if bool(args.teachers) != bool(args.data_dir):
        raise ConfigError("--teachers and --data_dir are needed together")
    if not (args.teachers or args.info or args.verify):
        raise ConfigError(
            "nothing to do: give --teachers and --data_dir, --info, or --verify"
        )
    out_dir = Path(args.out_dir)
    if args.teachers:
        from espnet_mtkd.targets.extract_all import extract_all

        unfinished = extract_all(
            args.teachers,
            [Path(d) for d in args.data_dir],
            Path(args.shape_dir or out_dir),
            out_dir,
            args.nj,
            make_settings(args),
        )
        if unfinished:
            print(
                "this process's share is done; not yet whole: "
                + ", ".join(map(str, unfinished))
            )
        else:
            print(f"finished: {out_dir}")
    if args.info or args.verify:
        from espnet_mtkd.targets.info import describe_stores, find_stores, verify_stores

        stores = find_stores(out_dir)
        if args.info:
            print(describe_stores(stores))
        if args.verify:
            verify_stores(stores)
            print(
                f"verified: {len(stores)} store(s), {sum(map(len, stores))} utterances"
            )


if __name__ == "__main__":
    main()
