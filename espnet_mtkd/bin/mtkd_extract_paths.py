"""Store a teacher transducer's best alignment paths, which a student learns from.

Writes <out_dir>/<name of data_dir>/, in the format of mtkd_extract (docs/targets.md). A
run that was stopped goes on where it was; several processes share the work.

Example:
    python -m espnet_mtkd.bin.mtkd_extract_paths --asr_exp exp/asr_teacher \\
        --data_dir dump/raw/train --shape_dir exp/mtkd_stats --out_dir exp/paths
"""

import argparse
import logging
import os
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError, report_errors


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
    add("--ngpu", type=int, default=0, help="1: on a GPU (default: 0, the CPU)")
    add("--rank", type=int, help="this process, from 0 (default: RANK, or 0)")
    add("--world_size", type=int, help="processes (default: WORLD_SIZE, or 1)")
    add("--nj", type=int, default=1, help="processes that check audio (default: 1)")
    return parser


def read_text(data_dir: Path, utts) -> dict[str, str]:
    """Transcripts of some utterances of a Kaldi directory.

    Raises:
        DataError: no such file, or an utterance without a line.
    """
    path = data_dir / "text"
    if not path.is_file():
        raise DataError(f"{path}: no such file: paths need transcripts")
    texts = {}
    for line in path.read_text("utf-8").splitlines():
        utt, _, text = line.strip().partition(" ")
        texts[utt] = text
    missing = [utt for utt in utts if utt not in texts]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} utterances of wav.scp have no line, the first is "
            f"{missing[0]} (utils/fix_data_dir.sh)"
        )
    return texts


@report_errors
def main(cmd=None):
    """Extract; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import torch
    from filelock import FileLock

    from espnet_mtkd.audio import check_data_dir, read_lengths, read_wav_scp
    from espnet_mtkd.transducer.extract_paths import (
        TeacherTransducer,
        extract_paths,
        make_utterances,
    )

    env = os.environ
    rank = int(env.get("RANK", 0)) if args.rank is None else args.rank
    world = (
        int(env.get("WORLD_SIZE", 1)) if args.world_size is None else args.world_size
    )
    if not 0 <= rank < world:
        raise ConfigError(f"--rank: expected 0 to {world - 1}, found {rank}")
    if args.ngpu > 0 and not torch.cuda.is_available():
        raise ConfigError("--ngpu: no GPU is visible here: use --ngpu 0")
    asr_exp, out_dir = Path(args.asr_exp), Path(args.out_dir)
    teacher = TeacherTransducer(
        asr_exp / "config.yaml",
        asr_exp / args.model_file,
        "cuda" if args.ngpu > 0 else "cpu",
    )
    for data_dir in map(Path, args.data_dir):
        shape = Path(args.shape_dir or out_dir) / data_dir.name / "speech_shape"
        shape.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(shape.with_name(".check.lock")):
            check_data_dir(data_dir, shape, args.nj)
        lengths = read_lengths(shape)
        texts = read_text(data_dir, lengths)
        utts = make_utterances(lengths, read_wav_scp(data_dir / "wav.scp"), texts)
        folder = out_dir / data_dir.name
        if extract_paths(teacher, utts, texts, folder, args.num_tokens, rank, world):
            print(f"finished: {folder}")
        else:
            print(f"this process's share is done; not yet whole: {folder}")


if __name__ == "__main__":
    main()
