"""Transcribe unlabelled audio by Whisper, and leave out what it seems to have made up.

Writes a Kaldi `text` for mtkd.sh's --pseudo_text. Beside it: <out>.tsv has every
utterance with its confidence and the reason for which it is left out, <out>.json what
wrote them, <out>.hypotheses what was recognised, so that other filters cost no time and
a run that was ended goes on. Whisper is a supervised model: these labels are its.

With --reference, the text of the same audio, it tells how many transcripts are kept and
how right they are.

Example:
    python -m espnet_mtkd.bin.mtkd_fetch_whisper --model base --decoder \\
        --out_dir downloads/whisper_base_decoder
    python -m espnet_mtkd.bin.mtkd_transcribe --model downloads/whisper_base_decoder \\
        --data_dir dump/raw/unlabelled_x --like data/train/text --out whisper.txt
"""

import argparse
import logging
import time
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors


def get_parser():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        help="Whisper in CTranslate2's form: model.bin, config.json, tokenizer.json",
    )
    add("--data_dir", type=Path, nargs="+", required=True, help="with wav.scp")
    add("--out", type=Path, required=True, help="text that is written")
    add("--like", type=Path, help="text whose case and characters it is to have")
    add(
        "--case",
        default="auto",
        help="upper, lower, keep, or auto: that of --like, else upper (default: auto)",
    )
    add("--language", default="en", help="that is spoken (default: en)")
    add("--beam_size", type=int, default=5, help="of the search (default: 5)")
    add("--batch_size", type=int, default=8, help="utterances at once (default: 8)")
    add(
        "--compute_type",
        default="int8",
        help="CTranslate2's: int8, float32, float16, ... (default: int8)",
    )
    add("--num_threads", type=int, default=1, help="of the CPU (default: 1)")
    add("--ngpu", type=int, default=0, help="1: on a GPU (default: 0, the CPU)")
    add("--nj", type=int, default=1, help="processes that check audio (default: 1)")
    add(
        "--min_confidence",
        type=float,
        default=0.5,
        help="0 to 1: mean probability of a token (default: 0.5)",
    )
    add(
        "--min_agreement",
        type=float,
        default=0.8,
        help="0 to 1: words that greedy and beam search share (default: 0.8)",
    )
    add(
        "--max_no_speech",
        type=float,
        default=0.6,
        help="0 to 1: probability that nothing is said (default: 0.6)",
    )
    add(
        "--max_compression",
        type=float,
        default=2.4,
        help="bytes of the text : those after zlib (default: 2.4)",
    )
    add(
        "--max_repeats",
        type=int,
        default=3,
        help="the same words more often in a row are left out (default: 3)",
    )
    add(
        "--min_chars_per_second",
        type=float,
        default=0.5,
        help="fewer letters are left out (default: 0.5)",
    )
    add(
        "--max_chars_per_second",
        type=float,
        default=25.0,
        help="more are left out (default: 25)",
    )
    add("--reference", type=Path, help="text of --data_dir: tell how right they are")
    return parser


@report_errors
def main(cmd=None):
    """Recognise, filter and write; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("beam_size", "batch_size", "num_threads", "nj"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: expected from 1, found {getattr(args, name)}")
    from espnet_mtkd.data.kaldi import read_lines
    from espnet_mtkd.transducer.curve import draw_curve, format_curve
    from espnet_mtkd.transducer.invented import InventionFilters, judge_hypothesis
    from espnet_mtkd.transducer.pseudo import describe_kept
    from espnet_mtkd.transducer.recogniser import Recogniser
    from espnet_mtkd.transducer.transcribe import (
        HYPOTHESES,
        describe_quality,
        label_all,
        transcribe,
        write_labels,
    )
    from espnet_mtkd.transducer.writing import CASES, Writing

    names = InventionFilters.__dataclass_fields__
    filters = InventionFilters(**{name: getattr(args, name) for name in names})
    if args.case not in CASES:
        raise ConfigError(f"--case: expected {' or '.join(CASES)}, found '{args.case}'")
    like = read_lines(args.like, "transcripts").values() if args.like else []
    writing = Writing.like(like, args.case)
    references = None
    if args.reference:
        references = read_lines(args.reference, "the text of --data_dir")
    recogniser = Recogniser(
        args.model,
        args.language,
        args.beam_size,
        args.compute_type,
        args.num_threads,
        "cuda" if args.ngpu else "cpu",
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    audio = find_audio(args)
    begin = time.monotonic()
    kept = args.out.with_name(args.out.name + HYPOTHESES)
    hypotheses = transcribe(recogniser, audio, kept, args.batch_size)
    spent = time.monotonic() - begin
    labels = label_all(
        audio,
        hypotheses,
        lambda *found: judge_hypothesis(*found, writing, filters),
    )
    num_kept = sum(x.reason is None for x in labels)
    seconds = sum(x.seconds for x in labels)
    print(f"{seconds:.0f} s of audio in {spent:.0f} s")
    print(describe_kept(labels))
    made_by = {
        "model": f"Whisper ({args.model.name}), by CTranslate2",
        "upstream": args.model.name.removesuffix("_decoder"),
        "is_supervised": True,
        **recogniser.fingerprint,
        "filters": vars(filters),
        "num_kept": num_kept,
        "num_utterances": len(labels),
    }
    if references is not None:
        print(format_curve(draw_curve(labels, references)), end="")
        print(describe_quality(labels, references))
    write_labels(labels, args.out, made_by)
    print(f"written: {args.out}: {num_kept} of {len(labels)} transcripts kept")


def find_audio(args) -> list:
    """Usable utterances of all data directories.

    Raises:
        DataError: an id in two of them.
    """
    from espnet_mtkd.data.audio import prepare_audio
    from espnet_mtkd.data.check import check_distinct
    from espnet_mtkd.targets.plan import Utterance

    check_distinct(args.data_dir)
    audio = []
    for data_dir in args.data_dir:
        shapes = args.out.with_name(args.out.name + ".audio")
        lengths, files = prepare_audio(data_dir, shapes, args.nj)
        audio += [Utterance(u, files[u], n, 0) for u, n in lengths.items()]
    return audio


if __name__ == "__main__":
    main()
