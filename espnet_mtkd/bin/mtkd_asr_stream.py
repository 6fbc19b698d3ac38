"""Decode audio as it comes, with a streaming ESPnet transducer.

Final text goes to standard output; what is known so far, stable part | rest, and
statistics (docs/streaming.md defines them) to standard error.

Example:
    python -m espnet_mtkd.bin.mtkd_asr_stream speech.wav --real_time \\
        --asr_train_config exp/asr_x/config.yaml \\
        --asr_model_file exp/asr_x/valid.loss.ave.pth
    arecord -f S16_LE -r 16000 -t raw | \\
        python -m espnet_mtkd.bin.mtkd_asr_stream ... -
    python -m espnet_mtkd.bin.mtkd_asr_stream ... --microphone
    python -m espnet_mtkd.bin.mtkd_asr_stream ... --wav_scp dump/raw/test/wav.scp \\
        --out exp/asr_x/stream/text --num_streams 8
"""

import argparse
import math
import sys
from pathlib import Path

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, DataError, report_errors

OPTIONS = (  # passed on to the decoder as they are
    "bpemodel dtype search_type beam_size max_symbols_per_frame endpoint_silence "
    "max_segment"
).split()


def get_parser():
    """Command line of streaming decoding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "audio",
        nargs="*",
        help="wav or flac files; '-': 16-bit PCM, one channel, the model's sample rate "
        "(16 kHz), raw or with a WAV header, from standard input, until it ends or "
        "Ctrl-C",
    )
    add("--microphone", action="store_true", help="until Ctrl-C; needs sounddevice")
    add("--wav_scp", type=Path, help="all utterances of a Kaldi wav.scp")
    add(
        "--out",
        type=Path,
        help="write '<utterance> <text>' lines, as Kaldi's text, each when it is known",
    )
    add(
        "--resume",
        action="store_true",
        help="keep the lines that --out has, of a run with the same model and options "
        "that was stopped, and decode the others (default: decode all)",
    )
    add("--asr_train_config", type=Path, help="config.yaml of an ESPnet ASR model")
    add("--asr_model_file", type=Path, help="its .pth")
    add("--model_tag", help="of a published ESPnet model, in place of the two")
    add("--bpemodel", type=Path, help="(default: the one in the config)")
    add(
        "--chunk_ms", type=float, default=160, help="audio given at once (default: 160)"
    )
    add(
        "--real_time",
        action="store_true",
        help="give a file's audio no faster than it sounds",
    )
    add(
        "--num_streams",
        type=int,
        default=1,
        help="files decoded side by side, in one batch (default: 1)",
    )
    add(
        "--search_type",
        default="greedy",
        help="greedy; default or tsd: ESPnet's beam searches (default: greedy)",
    )
    add("--beam_size", type=int, default=5, help="of a beam search (default: 5)")
    add(
        "--max_symbols_per_frame",
        type=int,
        help="tokens that a frame of the encoder may emit (default: 4; of the search "
        "default: 32)",
    )
    add(
        "--endpoint_silence",
        type=float,
        default=1.0,
        help="s without a token that end a segment; inf: never (default: 1)",
    )
    add(
        "--max_segment",
        type=float,
        default=30.0,
        help="s after which a segment is cut; inf: never (default: 30)",
    )
    add("--ngpu", type=int, default=0, help="1: on a GPU (default: 0, the CPU)")
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="(default: float32)",
    )
    add("--num_threads", type=int, default=1, help="of the CPU (default: 1)")
    return parser


def check(args) -> None:
    """Refuse flags that do not go together, and numbers out of range.

    Raises:
        ConfigError: naming what was expected.
    """
    if sum(map(bool, (args.audio, args.microphone, args.wav_scp))) != 1:
        raise ConfigError(
            "expected one of: audio files or '-', --microphone, --wav_scp"
        )
    if "-" in args.audio and len(args.audio) > 1:
        raise ConfigError("'-' (standard input) stands alone")
    if bool(args.model_tag) == bool(args.asr_train_config and args.asr_model_file):
        raise ConfigError(
            "expected --asr_train_config and --asr_model_file, or --model_tag"
        )
    if args.resume and not args.out:
        raise ConfigError("--resume goes on with the file that --out names: give it")
    for name in ("chunk_ms", "num_streams", "num_threads"):
        if not 0 < getattr(args, name) < math.inf:
            raise ConfigError(
                f"--{name}: expected above 0, found {getattr(args, name)}"
            )


def load(args):
    """The decoder that the command line describes.

    Raises:
        ConfigError: no GPU is visible, or as `Speech2TextStreamingTransducer`.
    """
    import torch

    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    if args.ngpu > 0 and not torch.cuda.is_available():
        raise ConfigError("--ngpu: no GPU is visible here: use --ngpu 0")
    torch.set_num_threads(args.num_threads)
    options = {name: getattr(args, name) for name in OPTIONS}
    options["device"] = "cuda" if args.ngpu > 0 else "cpu"
    if args.model_tag:
        return Speech2TextStreamingTransducer.from_pretrained(args.model_tag, **options)
    return Speech2TextStreamingTransducer(
        args.asr_train_config, args.asr_model_file, **options
    )


def run(args, speech2text) -> None:
    """Decode what the command line names.

    Raises:
        DataError: some utterances could not be decoded: they are named, the others
            were.
    """
    from espnet_mtkd.streaming import sources
    from espnet_mtkd.streaming.live import LivePrinter
    from espnet_mtkd.streaming.sessions import decode, statistics
    from espnet_mtkd.streaming.texts import TextFile

    rate = speech2text.sample_rate
    chunk_size = max(1, round(args.chunk_ms / 1000 * rate))
    is_live = args.microphone or args.audio == ["-"]
    paths = {} if is_live else sources.list_files(args.audio, args.wav_scp)
    out = TextFile(args.out, args.resume) if args.out else None
    if out is not None and out.num_found:
        say_what_was_found(out)
    faults = {}

    def report(utt: str, fault: str) -> None:
        faults[utt] = fault
        print(f"error: {utt}: {fault}", file=sys.stderr, flush=True)

    def end(session) -> None:
        if session.fault:
            report(session.utt, session.fault)
        elif out is not None:
            out.add(session.utt, session.text)
        if not session.fault and not session.num_heard:
            print(f"{session.utt}: no audio came", file=sys.stderr)

    with sources.catch_ctrl_c() as stop:
        if is_live:
            inputs = sources.open_live(args.microphone, rate, chunk_size, stop)
        else:
            todo = {u: p for u, p in paths.items() if not out or u not in out.lines}
            inputs, found = sources.open_files(todo, rate, chunk_size)
            for utt, fault in found.items():
                report(utt, fault)
        sessions, seconds = decode(
            speech2text,
            inputs,
            args.num_streams,
            args.real_time,
            LivePrinter(show_partial=not args.wav_scp),
            end,
            None if is_live else stop,
        )
        was_stopped = stop.is_set() and not is_live
    if out is not None and not (was_stopped and not sessions):
        out.finish(list(paths or inputs))
    print("\n".join(statistics(sessions, seconds, rate)), file=sys.stderr)
    if was_stopped and len(sessions) < len(inputs):
        num_left = len(inputs) - len(sessions)
        raise KeyboardInterrupt(
            f"{num_left} utterances were not decoded; --out keeps the others, and "
            "--resume goes on from them"
        )
    if faults:
        raise DataError(
            f"{len(faults)} of {len(inputs) + len(faults.keys() - inputs)} utterances "
            "could not be decoded, the others were:\n  "
            + "\n  ".join(f"{utt}: {fault}" for utt, fault in faults.items())
        )


def say_what_was_found(out) -> None:
    """Say what becomes of the lines of an earlier run in `--out`."""
    if out.keep:
        what = f"--resume keeps {len(out.lines)} of its {out.num_found} lines"
    else:
        what = (
            f"the {out.num_found} lines of an earlier run are replaced (--resume keeps "
            "them and goes on)"
        )
    print(f"{out.path}: {what}", file=sys.stderr)


@report_errors
def main(cmd=None):
    """Decode; exit codes as in `espnet_mtkd.errors`, and 130 after Ctrl-C."""
    args = get_parser().parse_args(cmd)
    check(args)
    require_espnet()
    try:
        speech2text = load(args)
        sizes = ", ".join(f"{k} {v:g} ms" for k, v in speech2text.latency_ms().items())
        print(f"encoder: {sizes}", file=sys.stderr)
        run(args, speech2text)
    except KeyboardInterrupt as e:
        print(f"stopped by Ctrl-C. {e}".rstrip(), file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
