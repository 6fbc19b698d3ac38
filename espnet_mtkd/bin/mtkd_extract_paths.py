"""Store a teacher transducer's best alignment paths, which a student learns from.

Writes <out_dir>/<name of data_dir>/, in the format of mtkd_extract (docs/targets.md). A
run that was stopped goes on where it was; several processes share the work.

Example:
    python -m espnet_mtkd.bin.mtkd_extract_paths --asr_exp exp/asr_teacher \\
        --data_dir dump/raw/train --shape_dir exp/mtkd_stats --out_dir exp/paths
"""

import argparse
import logging
from pathlib import Path

from espnet_mtkd.errors import report_errors
from espnet_mtkd.targets.process import (
    add_batch_arguments,
    add_process_arguments,
    check_positive,
    this_process,
)


def get_parser():
    """Command line of the extraction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--asr_exp", required=True, help="of the teacher transducer")
    add(
        "--model_file",
        default="valid.loss.ave.pth",
        help="in <asr_exp> (default: valid.loss.ave.pth)",
    )
    add("--data_dir", nargs="+", required=True, help="with wav.scp and text")
    add(
        "--shape_dir",
        help="where mtkd_doctor wrote <name of data_dir>/speech_shape; audio that it "
        "has not checked is checked (default: <out_dir>)",
    )
    add("--out_dir", required=True, help="of all paths of this teacher")
    add(
        "--num_tokens",
        type=int,
        default=8,
        help="tokens kept of each node, blank and label among them; 4 bytes each "
        "(default: 8)",
    )
    add_batch_arguments(parser)
    add_process_arguments(parser)
    return parser


@report_errors
def main(cmd=None):
    """Extract; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from espnet_mtkd.targets.plan import Settings
    from espnet_mtkd.transducer.extract_paths import (
        TeacherTransducer,
        extract_paths,
        read_transcribed,
    )

    process = this_process(args)
    check_positive(args, "batch_seconds")
    settings = Settings(
        form="paths",
        exact=args.exact,
        batch_seconds=args.batch_seconds,
        device=process.device,
        rank=process.rank,
        world_size=process.world_size,
    )
    asr_exp, out_dir = Path(args.asr_exp), Path(args.out_dir)
    teacher = TeacherTransducer(
        asr_exp / "config.yaml",
        asr_exp / args.model_file,
        process.device,
    )
    for data_dir in map(Path, args.data_dir):
        utts, texts = read_transcribed(
            data_dir, Path(args.shape_dir or out_dir), args.nj
        )
        folder = out_dir / data_dir.name
        if extract_paths(teacher, utts, texts, folder, args.num_tokens, settings):
            print(f"finished: {folder}")
        else:
            print(f"this process's share is done; not yet whole: {folder}")


if __name__ == "__main__":
    main()
