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

from espnet_mtkd.errors import ConfigError, TargetStoreError, report_errors
from espnet_mtkd.targets.process import add_process_arguments


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
    add(
        "--exact",
        action="store_true",
        help="batch only utterances of one length: no teacher hears padding",
    )
    add(
        "--batch_seconds",
        type=float,
        default=60.0,
        help="audio in a batch, padding included (default: 60)",
    )
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
    add("--verify", action="store_true", help="compare all shards with their sha256")
    return parser


def find_stores(out_dir: Path) -> list:
    """All finished stores under `out_dir`.

    Raises:
        TargetStoreError: there is none.
    """
    from espnet_mtkd.targets.store import MANIFEST, TargetStore

    stores = [TargetStore(p.parent) for p in sorted(out_dir.glob(f"*/*/{MANIFEST}"))]
    if not stores:
        raise TargetStoreError(f"{out_dir}: no finished targets in it")
    return stores


def print_info(stores: list) -> None:
    """One row for each store: size, and what it costs a frame."""
    row = "{:40} {:>9} {:>9} {:>6} {:>11} {:>9} {:>11}"
    print(row.format(*"store utts hours form bytes/frame MB overhead/%".split()))
    for store in stores:
        payload = store.num_frames * sum(t.bytes_per_frame for t in store.targets)
        hours = store.num_frames * store.targets[0].frame_shift / 16000 / 3600
        print(
            row.format(
                str(store.folder),
                len(store),
                f"{hours:.2f}",
                store.fingerprint["form"],
                sum(t.bytes_per_frame for t in store.targets),
                f"{store.num_bytes / 1e6:.2f}",
                f"{100 * (store.num_bytes / payload - 1):.1f}",
            )
        )
        for key in ("upstream", "checkpoint", "layers", "dtype", "versions"):
            print(f"    {key}: {store.fingerprint[key]}")


def verify(stores: list) -> None:
    """Compare all files with what the manifests say.

    Raises:
        TargetStoreError: naming each file that differs.
    """
    problems = [line for store in stores for line in store.verify()]
    if problems:
        raise TargetStoreError(
            "\n  ".join([f"{len(problems)} bad file(s):", *problems])
        )
    print(f"verified: {len(stores)} store(s), {sum(map(len, stores))} utterances")


def make_settings(args):
    """`Settings` from the command line and torchrun's environment.

    Raises:
        ConfigError: a number out of range, or no GPU where one is asked for.
    """
    import torch

    from espnet_mtkd.targets.plan import Settings
    from espnet_mtkd.targets.process import this_process
    from espnet_mtkd.targets.quantizer import check_num_codebooks

    process = this_process(args)
    check_num_codebooks(args.num_codebooks)
    if not args.batch_seconds > 0:
        raise ConfigError(
            f"--batch_seconds: expected above 0, found {args.batch_seconds}"
        )
    if args.shard_bytes is not None and not args.shard_bytes > 0:
        raise ConfigError(f"--shard_bytes: expected above 0, found {args.shard_bytes}")
    dtype = args.dtype
    if dtype == "auto":
        dtype = "float32" if process.device == "cpu" else "bfloat16"
    return Settings(
        form=args.form,
        num_codebooks=args.num_codebooks,
        exact=args.exact,
        batch_seconds=args.batch_seconds,
        shard_bytes=args.shard_bytes,
        device=process.device,
        dtype=getattr(torch, dtype),
        rank=process.rank,
        world_size=process.world_size,
    )


def run(args) -> None:
    """Extract all teachers over all data directories."""
    from espnet_mtkd.data.audio import prepare_audio
    from espnet_mtkd.targets.codebooks import get_codebooks
    from espnet_mtkd.targets.extract import extract
    from espnet_mtkd.targets.plan import Utterance
    from espnet_mtkd.teachers.base import parse_teachers
    from espnet_mtkd.teachers.hub import import_s3prl_hub
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher, check_length, check_upstream

    settings = make_settings(args)
    configs = parse_teachers(args.teachers)
    hub = import_s3prl_hub()
    for config in configs:
        check_upstream(config, hub)
    data_dirs = [Path(d) for d in args.data_dir]
    names = [d.name for d in data_dirs]
    if len(set(names)) != len(names):
        raise ConfigError(f"--data_dir: two directories have one name: {names}")
    out_dir = Path(args.out_dir)
    lengths, audios = {}, {}
    for data_dir in data_dirs:
        lengths[data_dir.name], audios[data_dir.name] = prepare_audio(
            data_dir, Path(args.shape_dir or out_dir), args.nj
        )
    unfinished = []
    for config in configs:
        teacher = S3PRLTeacher(config)
        teacher.dtype = settings.dtype
        shifts = {spec.frame_shift for spec in teacher.targets}
        if len(shifts) > 1:
            raise ConfigError(
                f"teacher '{config.name}': its layers have different frame shifts "
                f"{sorted(shifts)} (samples): give each a teacher of its own"
            )
        (shift,) = shifts
        data = {}
        for name, nums in lengths.items():
            check_length(teacher, nums.values(), list(nums))
            frames = teacher.count_frames(nums.values(), shift)
            data[name] = [
                Utterance(utt, audios[name][utt], nums[utt], num)
                for utt, num in zip(nums, frames, strict=True)
            ]
        folder = out_dir / config.name
        folder.mkdir(parents=True, exist_ok=True)
        books = None
        if settings.form == "codes":
            books = get_codebooks(teacher, data[names[0]], folder, settings)
        unfinished += [
            str(folder / name)
            for name in names
            if not extract(teacher, data[name], folder / name, settings, books)
        ]
    if unfinished:
        print("this process's share is done; not yet whole: " + ", ".join(unfinished))
    else:
        print(f"finished: {out_dir}")


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
    if args.teachers:
        run(args)
    if args.info or args.verify:
        stores = find_stores(Path(args.out_dir))
        if args.info:
            print_info(stores)
        if args.verify:
            verify(stores)


if __name__ == "__main__":
    main()
