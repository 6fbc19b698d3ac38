"""Add audio that a teacher transducer has transcribed to a training set.

Reads what `asr.sh` stage 12 wrote for each unlabelled set, keeps the transcripts that
are confident enough, and writes a data directory of these and the transcribed ones.
<out_dir>/pseudo_labels.tsv lists all of them, kept or not, with their confidence.

Example:
    python -m espnet_mtkd.bin.mtkd_pseudo_label --labelled dump/raw/train \\
        --unlabelled dump/raw/unlabelled_es --min_confidence 0.8 \\
        --decode_dir exp/asr_teacher/decode_asr --out_dir dump/raw/train_pseudo
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors


def get_parser():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--labelled", type=Path, required=True, help="training set with transcripts")
    add(
        "--unlabelled",
        type=Path,
        nargs="+",
        required=True,
        help="data directories without",
    )
    add(
        "--decode_dir",
        type=Path,
        required=True,
        help="<decode_dir>/<name of the data directory> holds text, token_int, score",
    )
    add(
        "--min_confidence",
        type=float,
        default=0.8,
        help="0 to 1: mean probability of a token (default: 0.8)",
    )
    add("--out_dir", type=Path, required=True, help="data directory that is written")
    return parser


@report_errors
def main(cmd=None):
    """Filter and write; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.transducer.pseudo import read_pseudo_labels, write_training_set

    if not 0 <= args.min_confidence <= 1:
        raise ConfigError(
            f"--min_confidence: expected 0 to 1, found {args.min_confidence}"
        )
    labels = {}
    for data_dir in args.unlabelled:
        labels[data_dir] = read_pseudo_labels(
            args.decode_dir / data_dir.name, args.min_confidence
        )
        num_kept = sum(x.reason is None for x in labels[data_dir])
        print(f"{data_dir}: {num_kept} of {len(labels[data_dir])} transcripts kept")
    write_training_set(args.labelled, labels, args.out_dir)
    print(f"written: {args.out_dir}")


if __name__ == "__main__":
    main()
