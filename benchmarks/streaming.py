"""What streaming costs: against the whole utterance at once, beam against greedy
search, streams side by side against one after the other.

    python benchmarks/streaming.py                       # random weights, recipe's size
    python benchmarks/streaming.py --asr_train_config exp/asr_x/config.yaml \\
        --asr_model_file exp/asr_x/valid.loss.ave.pth --wav_scp dump/raw/test/wav.scp

One thread, and CPU time, which other jobs on the machine distort little. In every round
each way decodes the same utterances; prints medians over rounds of real-time factors
(RTF) and of ratios within a round. Offline is ESPnet's: `encode` of the whole utterance
and its `BeamSearchTransducer`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

RECIPE = Path(__file__).resolve().parents[1] / "egs2/asterisk/mtkd1/conf"
CONFIG = RECIPE / "train_asr_contextual_block_conformer_transducer.yaml"
TOKENS_PER_FRAME = 0.3  # that a random model emits: 7.5 a second, as characters do


def build_random(folder: Path, config: Path, num_tokens: int, waves: list):
    """Files of a random model of a recipe's size that emits tokens now and then."""
    from espnet2.tasks.asr import ASRTask

    stats = folder / "stats.npz"
    settings = yaml.safe_load(config.read_text())
    one = np.ones(settings["frontend_conf"]["n_mels"])
    np.savez(stats, count=100, sum=-800 * one, sum_square=8000 * one)
    tokens = ["<blank>", "<unk>", *map(str, range(num_tokens - 3)), "<sos/eos>"]
    args = {
        **ASRTask.get_default_config(),
        **settings,
        "token_list": tokens,
        "token_type": "char",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(stats)},
    }
    torch.manual_seed(0)
    model = ASRTask.build_model(argparse.Namespace(**args)).eval()
    joint, decoder = model.joint_network, model.decoder
    with torch.no_grad():
        speech_1N = torch.from_numpy(waves[0])[None]
        encoded_TD = model.encode(speech_1N, torch.tensor([speech_1N.size(1)]))[0][0]
        first = decoder.rnn_forward(
            decoder.embed(torch.tensor([[0]])), decoder.init_state(1)
        )[0][0, 0]
        # Frames that differ, and a blank that wins in most of them.
        joint.lin_enc.weight.div_(joint.lin_enc(encoded_TD).std(0)[:, None])
        logits_TV = joint(encoded_TD, first)
        gap_T = logits_TV[:, 1:].amax(1) - logits_TV[:, 0]
        joint.lin_out.bias[0] += gap_T.quantile(1 - TOKENS_PER_FRAME)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    return folder / "config.yaml", folder / "model.pth"


def offline(model, waves: list, **options) -> int:
    """ESPnet's whole-utterance decoding; tokens."""
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    search = BeamSearchTransducer(model.decoder, model.joint_network, **options)
    num_tokens = 0
    for wave in waves:
        speech_1N = torch.from_numpy(wave)[None]
        encoded, _ = model.encode(speech_1N, torch.tensor([speech_1N.size(1)]))
        num_tokens += len(search(encoded[0])[0].yseq) - 1
    return num_tokens


def streaming(speech2text, waves: list, chunk: int, side_by_side: bool) -> int:
    """Decode in chunks, all streams in step or one after the other; tokens."""
    groups = [waves] if side_by_side else [[wave] for wave in waves]
    num_tokens = 0
    for group in groups:
        streams = [speech2text.open_stream() for _ in group]
        for begin in range(0, max(map(len, group)), chunk):
            speech2text.accept(streams, [wave[begin : begin + chunk] for wave in group])
        found = speech2text.finish(streams)
        num_tokens += sum(len(segments[-1].tokens) for segments in found)
    return num_tokens


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asr_train_config", type=Path)
    parser.add_argument("--asr_model_file", type=Path)
    parser.add_argument("--wav_scp", type=Path, help="(default: noise)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="random model's")
    parser.add_argument("--num_tokens", type=int, default=31, help="random model's")
    parser.add_argument("--seconds", type=float, default=10.0, help="of noise each")
    parser.add_argument("--num_streams", type=int, default=8)
    parser.add_argument("--chunk_ms", type=float, default=160)
    parser.add_argument("--beam_size", type=int, default=5)
    parser.add_argument("--num_rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    from espnet_mtkd.data.kaldi import read_wav_scp
    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    if args.wav_scp:
        paths = list(read_wav_scp(args.wav_scp).values())[: args.num_streams]
        waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
    else:
        rng = np.random.default_rng(0)
        shape = args.num_streams, round(16000 * args.seconds)
        waves = list((0.1 * rng.standard_normal(shape)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        files = args.asr_train_config, args.asr_model_file
        if not args.asr_model_file:
            files = build_random(Path(folder), args.config, args.num_tokens, waves)
        never = dict(endpoint_silence=float("inf"), max_segment=float("inf"))
        greedy = Speech2TextStreamingTransducer(*files, **never)
        beam = Speech2TextStreamingTransducer(
            *files, search_type="tsd", beam_size=args.beam_size, **never
        )
    chunk = round(args.chunk_ms / 1000 * greedy.sample_rate)
    tsd = dict(search_type="tsd", beam_size=args.beam_size)
    ways = {
        "offline greedy": lambda: offline(greedy.asr_model, waves, beam_size=1),
        "offline tsd": lambda: offline(greedy.asr_model, waves, **tsd),
        "streaming greedy": lambda: streaming(greedy, waves, chunk, False),
        "streaming tsd": lambda: streaming(beam, waves, chunk, False),
        "streams side by side, greedy": lambda: streaming(greedy, waves, chunk, True),
        "streams side by side, tsd": lambda: streaming(beam, waves, chunk, True),
    }
    seconds = {name: [] for name in ways}
    num_tokens = {}
    with torch.no_grad():
        for i in range(args.num_rounds + 1):
            for name, way in ways.items():
                begin = time.process_time()
                num_tokens[name] = way()
                if i > 0:  # the first round warms up
                    seconds[name].append(time.process_time() - begin)
    audio = sum(map(len, waves)) / greedy.sample_rate
    for name, values in seconds.items():
        print(
            f"{name:30} RTF {statistics.median(values) / audio:.4f}, "
            f"{num_tokens[name]} tokens"
        )
    for one, other in (
        ("streaming greedy", "offline greedy"),
        ("streaming tsd", "offline tsd"),
        ("streaming tsd", "streaming greedy"),
        ("streams side by side, greedy", "streaming greedy"),
        ("streams side by side, tsd", "streaming tsd"),
    ):
        ratio = statistics.median(
            a / b for a, b in zip(seconds[one], seconds[other], strict=True)
        )
        print(f"{one} : {other} = {ratio:.2f}")
    print(
        f"{len(waves)} streams, {audio:.0f} s of audio, chunks of {args.chunk_ms:g} "
        f"ms, beam {args.beam_size}, {args.num_rounds} rounds, one thread, CPU time"
    )


if __name__ == "__main__":
    main()
