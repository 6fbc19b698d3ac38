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
import time
from pathlib import Path

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, report_errors


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


def load(args):
    """The decoder that the command line describes."""
    import torch

    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    if args.ngpu > 0 and not torch.cuda.is_available():
        raise ConfigError("--ngpu: no GPU is visible here: use --ngpu 0")
    torch.set_num_threads(args.num_threads)
    options = {
        "bpemodel": args.bpemodel,
        "device": "cuda" if args.ngpu > 0 else "cpu",
        **{
            name: getattr(args, name)
            for name in (
                "dtype",
                "search_type",
                "beam_size",
                "max_symbols_per_frame",
                "endpoint_silence",
                "max_segment",
            )
        },
    }
    if args.model_tag:
        return Speech2TextStreamingTransducer.from_pretrained(args.model_tag, **options)
    return Speech2TextStreamingTransducer(
        args.asr_train_config, args.asr_model_file, **options
    )


def open_sources(args, sample_rate: int) -> dict:
    """Utterance id -> iterator over chunks; files are checked before any is decoded.

    Raises:
        ConfigError: two files of one name.
        DataError: a file that the model cannot hear.
    """
    from espnet_mtkd.data.kaldi import read_wav_scp
    from espnet_mtkd.streaming import sources

    chunk_size = max(1, round(args.chunk_ms / 1000 * sample_rate))
    if args.microphone:
        return {"microphone": sources.read_microphone(sample_rate, chunk_size)}
    if args.audio == ["-"]:
        return {"stdin": sources.read_stdin(chunk_size)}
    if args.wav_scp:
        paths = {utt: Path(path) for utt, path in read_wav_scp(args.wav_scp).items()}
    else:
        paths = {Path(path).stem: Path(path) for path in args.audio}
        if len(paths) < len(args.audio):
            raise ConfigError("two audio files have one name: give them in a --wav_scp")
    for path in paths.values():
        sources.check_file(path, sample_rate)
    return {utt: sources.read_file(path, chunk_size) for utt, path in paths.items()}


class Session:
    """One input while it is decoded.

    Attributes:
        stream: None after its end, so that a corpus does not fill memory.
        num_heard: samples.
        text: final text so far.
    """

    def __init__(self, utt: str, chunks, speech2text, real_time: bool):
        from espnet_mtkd.streaming.latency import LatencyMeter

        self.utt, self.chunks, self.real_time = utt, chunks, real_time
        self.sample_rate = speech2text.sample_rate
        self.stream = speech2text.open_stream()
        self.meter = LatencyMeter(speech2text.tokens2text)
        self.begin = time.perf_counter()
        self.time_ms = 0.0
        self.text = self.shown = ""

    def update(self, segments: list, seconds: float, show: bool) -> None:
        """Take a result that took `seconds` to compute."""
        self.num_heard = self.stream.num_heard
        heard_ms = 1000 * self.num_heard / self.sample_rate
        if self.real_time:
            self.time_ms = 1000 * (time.perf_counter() - self.begin)
        else:
            # As if the audio had come in real time: a chunk waits for its end, and for
            # the one before to be computed.
            self.time_ms = max(self.time_ms, heard_ms) + 1000 * seconds
        self.meter.update(segments, heard_ms, self.time_ms)
        for segment in segments:
            if segment.is_final:
                text = segment.text.strip()
                self.text = f"{self.text} {text}".strip()
                if text:
                    at = f"{segment.begin_ms / 1000:.2f}-{segment.end_ms / 1000:.2f}"
                    print(f"{self.utt} {at} {text}", flush=True)
            elif show and segment.text != self.shown:
                rest = segment.text[len(segment.stable_text) :]
                print(
                    f"{heard_ms / 1000:8.2f} s  {segment.stable_text} | {rest}",
                    file=sys.stderr,
                )
            self.shown = segment.text


def compute(sessions: list, method, *args, show: bool) -> float:
    """Call a method of the decoder for these sessions' streams; seconds it took."""
    if not sessions:
        return 0.0
    begin = time.perf_counter()
    found = method([session.stream for session in sessions], *args)
    seconds = time.perf_counter() - begin
    for session, segments in zip(sessions, found, strict=True):
        session.update(segments, seconds, show)
    return seconds


def decode(speech2text, sources: dict, args) -> tuple[list, float]:
    """Decode all sources, `--num_streams` at a time.

    Returns:
        Their sessions, finished, and the seconds of computation.
    """
    waiting = iter(sources.items())
    active, finished, total = [], [], 0.0
    while True:
        while len(active) < args.num_streams and (source := next(waiting, None)):
            active.append(Session(*source, speech2text, args.real_time))
        if not active:
            return finished, total
        chunks = [next(session.chunks, None) for session in active]
        ended = [s for s, c in zip(active, chunks, strict=True) if c is None]
        active = [s for s in active if s not in ended]
        chunks = [chunk for chunk in chunks if chunk is not None]
        if args.real_time:
            for session, chunk in zip(active, chunks, strict=True):
                heard = session.stream.num_heard + len(chunk)
                due = session.begin + heard / speech2text.sample_rate
                time.sleep(max(0.0, due - time.perf_counter()))
        show = not args.wav_scp
        total += compute(active, speech2text.accept, chunks, show=show)
        total += compute(ended, speech2text.finish, show=show)
        for session in ended:
            session.stream = None
        finished += ended


@report_errors
def main(cmd=None):
    """Decode; exit codes as in `espnet_mtkd.errors`."""
    args = get_parser().parse_args(cmd)
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
    require_espnet()
    speech2text = load(args)
    sizes = ", ".join(f"{k} {v:g} ms" for k, v in speech2text.latency_ms().items())
    print(f"encoder: {sizes}", file=sys.stderr)
    sources = open_sources(args, speech2text.sample_rate)
    sessions, seconds = decode(speech2text, sources, args)
    if args.out:
        from espnet_mtkd.files import write_atomically

        texts = {session.utt: session.text for session in sessions}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{utt} {texts[utt]}".rstrip() + "\n" for utt in sources)
        write_atomically(args.out, "".join(lines).encode())
    report(sessions, seconds, speech2text.sample_rate)


def report(sessions: list, seconds: float, sample_rate: int) -> None:
    """Print the statistics."""
    from espnet_mtkd.streaming.latency import summarize

    audio = sum(session.num_heard for session in sessions) / sample_rate
    lines = summarize([session.meter for session in sessions])
    if audio:
        lines.append(f"RTF: {seconds / audio:.3f} ({seconds:.2f} s / {audio:.2f} s)")
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
