"""Add audio that a teacher transducer, or any recogniser, has transcribed to a set.

Reads what `asr.sh` stage 12 wrote for each unlabelled set, asks the teacher how sure it
is of each token, and writes a data directory of the transcripts that pass and the
transcribed ones. <out_dir>/pseudo_labels.tsv lists all, kept or not, with their
confidence.

With --text the transcripts are those of a Kaldi `text`, from any recogniser, keyed by
the ids of --unlabelled; <text>.confidence beside it, if there, has '<id> <0 to 1>'.

With --reference nothing is added: it compares the transcripts of a set whose text the
teacher has not seen, and writes how precise and how many they are at each threshold.

Example:
    python -m espnet_mtkd.bin.mtkd_pseudo_label --labelled dump/raw/train \\
        --unlabelled dump/raw/unlabelled_es --min_confidence 0.8 \\
        --decode_dir exp/asr_teacher/decode_asr --out_dir dump/raw/train_pseudo
    python -m espnet_mtkd.bin.mtkd_pseudo_label --labelled dump/raw/train \\
        --unlabelled dump/raw/unlabelled_es --text text_es \\
        --out_dir dump/raw/train_pseudo
    python -m espnet_mtkd.bin.mtkd_pseudo_label --unlabelled dump/raw/test \\
        --decode_dir exp/asr_teacher/decode_asr --reference data/test/text \\
        --curve curve.tsv
"""

import argparse
import logging
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors
from espnet_mtkd.targets.process import this_process


def get_parser():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--labelled", type=Path, help="training set with transcripts")
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
        help="<decode_dir>/<name of the data directory> holds text, token_int",
    )
    add("--text", type=Path, help="transcripts of --unlabelled, from any recogniser")
    add(
        "--alone",
        action="store_true",
        help="leave the transcribed audio of --labelled out of the training set",
    )
    add(
        "--asr_exp",
        type=Path,
        help="of the teacher transducer (default: the directory above <decode_dir>)",
    )
    add(
        "--model_file",
        default="valid.loss.ave.pth",
        help="in <asr_exp>, which decoded (default: valid.loss.ave.pth)",
    )
    add(
        "--shape_dir",
        type=Path,
        help="where mtkd_doctor wrote <name of data_dir>/speech_shape; audio that it "
        "has not checked is checked (default: <decode_dir>, or <out_dir>)",
    )
    add(
        "--min_confidence",
        type=float,
        default=0.8,
        help="0 to 1: mean probability of a token (default: 0.8)",
    )
    add(
        "--min_tokens_per_second",
        type=float,
        default=0.5,
        help="fewer are dropped (default: 0.5)",
    )
    add(
        "--max_tokens_per_second",
        type=float,
        default=25.0,
        help="more are dropped (default: 25)",
    )
    add(
        "--max_repeats",
        type=int,
        default=3,
        help="the same tokens more often in a row are dropped (default: 3)",
    )
    add("--out_dir", type=Path, help="data directory that is written")
    add("--reference", type=Path, help="text of --unlabelled: draw the curve alone")
    add("--curve", type=Path, help="file that it is written to (default: print it)")
    add("--ngpu", type=int, default=0, help="1: on a GPU (default: 0, the CPU)")
    add("--nj", type=int, default=1, help="processes that check audio (default: 1)")
    return parser


def _check(args) -> None:
    """Refuse half of a command, before anything is computed."""
    if (args.text is None) == (args.decode_dir is None):
        raise ConfigError(
            "expected --decode_dir (what a teacher transducer decoded) or --text (of "
            "any recogniser), found both, or neither"
        )
    if args.text is not None and (args.asr_exp is not None or args.reference):
        raise ConfigError(
            "--text is of any recogniser: leave --asr_exp and --reference out "
            "(mtkd_transcribe --reference compares its own)"
        )
    if args.reference is None:
        if args.curve is not None:
            raise ConfigError("--curve needs --reference, the text of --unlabelled")
        for name in ("labelled", "out_dir"):
            if getattr(args, name) is None:
                raise ConfigError(f"--{name} is required (without --reference)")
    elif args.labelled is not None or args.out_dir is not None:
        raise ConfigError(
            "--reference draws the curve and writes no training set: leave --labelled "
            "and --out_dir out"
        )


@report_errors
def main(cmd=None):
    """Score, filter and write; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _check(args)
    from espnet_mtkd.data.kaldi import read_lines
    from espnet_mtkd.files import write_atomically
    from espnet_mtkd.transducer.curve import draw_curve, format_curve
    from espnet_mtkd.transducer.given import write_source
    from espnet_mtkd.transducer.pseudo import (
        Filters,
        describe_kept,
        write_training_set,
    )

    filters = Filters(
        args.min_confidence,
        args.min_tokens_per_second,
        args.max_tokens_per_second,
        args.max_repeats,
    )
    references = None
    if args.reference is not None:
        references = read_lines(args.reference, "the text of --unlabelled")
    find = given_labels if args.text is not None else decoded_labels
    labels = find(args, filters)
    for data_dir, found in labels.items():
        print(f"{data_dir}: {describe_kept(found)}")
    if references is None:
        write_training_set(args.labelled, labels, args.out_dir, args.alone)
        if not any(x.reason is None for found in labels.values() for x in found):
            logging.warning(
                "no transcript is kept, so %s is %s: look at its pseudo_labels.tsv, "
                "train the teacher further, or lower the filters",
                args.out_dir,
                "empty" if args.alone else "the labelled set alone",
            )
        if args.text is not None:
            write_source(args.text, args.out_dir)
        print(f"written: {args.out_dir}")
        return
    curve = format_curve(draw_curve(sum(labels.values(), []), references))
    if args.curve is None:
        print(curve, end="")
    else:
        write_atomically(args.curve, curve.encode())
        print(f"written: {args.curve}")


def decoded_labels(args, filters) -> dict:
    """Data directory -> labels, of what a teacher transducer decoded."""
    from espnet_mtkd.transducer.confidence import espnet_scores, score_hypotheses
    from espnet_mtkd.transducer.extract_paths import TeacherTransducer
    from espnet_mtkd.transducer.pseudo import read_pseudo_labels

    asr_exp = args.asr_exp or args.decode_dir.parent
    config, teacher = asr_exp / "config.yaml", None
    if args.asr_exp is None and not config.is_file():
        logging.warning(
            "no teacher in %s: its confidence is ESPnet's score a token, in which "
            "pauses count against a transcript (--asr_exp: that of the tokens alone)",
            asr_exp,
        )
    else:
        alone = argparse.Namespace(ngpu=args.ngpu, rank=0, world_size=1)
        device = this_process(alone).device
        teacher = TeacherTransducer(config, asr_exp / args.model_file, device)
    shape_dir = args.shape_dir or args.decode_dir
    labels = {}
    for data_dir in args.unlabelled:
        decoded, scores = args.decode_dir / data_dir.name, None
        if teacher is None:
            scores = espnet_scores(data_dir, decoded, shape_dir, args.nj)
        else:
            score_hypotheses(teacher, data_dir, decoded, shape_dir, args.nj)
        labels[data_dir] = read_pseudo_labels(decoded, filters, scores)
    return labels


def given_labels(args, filters) -> dict:
    """Data directory -> labels, of a text from any recogniser."""
    from espnet_mtkd.data.audio import prepare_audio
    from espnet_mtkd.data.kaldi import read_lines
    from espnet_mtkd.transducer.given import read_given_labels

    lengths, known = {}, {}
    for data_dir in args.unlabelled:
        lengths[data_dir], files = prepare_audio(
            data_dir, args.shape_dir or args.out_dir, args.nj
        )
        known[data_dir] = set(files)
    text = read_lines(args.labelled / "text", "the transcripts of the labelled set")
    characters = set("".join(text.values()))
    labels = read_given_labels(args.text, lengths, known, filters, characters)
    for data_dir, found in labels.items():
        total = len(known[data_dir])
        print(f"{data_dir}: {len(found)} of {total} utterances are in {args.text}")
    return labels


if __name__ == "__main__":
    main()
