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
import sys
from pathlib import Path

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, report_errors

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
        "(16 kHz), from standard input",
    )
    add("--microphone", action="store_true", help="until Ctrl-C; needs sounddevice")
    add("--wav_scp", type=Path, help="all utterances of a Kaldi wav.scp")
    add("--out", type=Path, help="write '<utterance> <text>' lines, as Kaldi's text")
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
    for name in ("chunk_ms", "num_streams", "num_threads"):
        if not getattr(args, name) > 0:
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


@report_errors
def main(cmd=None):
    """Decode; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
    check(args)
    require_espnet()
    from espnet_mtkd.streaming.live import LivePrinter
    from espnet_mtkd.streaming.sessions import decode, statistics, write_text
    from espnet_mtkd.streaming.sources import open_sources

    speech2text = load(args)
    sizes = ", ".join(f"{k} {v:g} ms" for k, v in speech2text.latency_ms().items())
    print(f"encoder: {sizes}", file=sys.stderr)
    rate = speech2text.sample_rate
    chunk_size = max(1, round(args.chunk_ms / 1000 * rate))
    sources = open_sources(args.audio, args.wav_scp, args.microphone, rate, chunk_size)
    show = LivePrinter(show_partial=not args.wav_scp)
    sessions, seconds = decode(
        speech2text, sources, args.num_streams, args.real_time, show
    )
    if args.out:
        write_text(args.out, list(sources), sessions)
    print("\n".join(statistics(sessions, seconds, rate)), file=sys.stderr)


if __name__ == "__main__":
    main()
