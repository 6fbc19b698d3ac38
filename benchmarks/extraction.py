"""Extraction against a plain loop over S3PRLUpstream, and the outputs' difference.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/extraction.py

The loop is what one writes first: corpus order, batches of 8, all hidden states. Both
sides run a random upstream of HuBERT Base's size through s3prl's own loading code, over
the same utterances, on the same threads. For the values the reference is the upstream
on each utterance alone, since HuBERT Base's group norm hears the padding of a batch.
What codes cost on top, by random codebooks, is of one layer, as a teacher has by
default, and of both.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch

from espnet_mtkd.objective.losses import CODEBOOK_SIZE
from espnet_mtkd.targets.embeddings import embed, embed_frames, load_batches
from espnet_mtkd.targets.plan import Utterance, plan_batches
from espnet_mtkd.targets.quantizer import Codebooks

LAYERS = (6, 9)


def build_hubert(path: Path, **config) -> None:
    """A random HuBERT, by default Base (95 M), in the form of `hubert_local`."""
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )

    torch.manual_seed(0)
    task = dict(label_rate=50, sample_rate=16000, normalize=False)
    config = dict(label_rate=50, **config)  # s3prl's defaults are Base's
    symbols = [["a", "b", "c"]]
    model = HubertModel(
        HubertConfig(**config), HubertPretrainingConfig(**task), symbols
    )
    state = {
        "task_cfg": task,
        "model_cfg": config,
        "model_weight": model.state_dict(),
        "dictionaries_symbols": symbols,
    }
    torch.save(state, path)


def plain_loop(upstream, utts) -> float:
    """Seconds of the loop that one writes first."""
    start = time.perf_counter()
    with torch.no_grad():
        for i in range(0, len(utts), 8):
            waves = [
                torch.from_numpy(soundfile.read(u.audio, dtype="float32")[0])
                for u in utts[i : i + 8]
            ]
            lengths = torch.tensor([len(w) for w in waves])
            speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            upstream(speech, lengths)
    return time.perf_counter() - start


def with_codes(teacher, utts, batch_seconds: float, books):
    """CPU seconds of the process without encoding, and of encoding each target."""
    start, encoding = time.process_time(), dict.fromkeys(books, 0.0)
    batches = plan_batches(utts, round(16000 * batch_seconds))
    for batch, speech in load_batches(batches, "cpu"):
        frames, _ = embed_frames(teacher, batch, speech)
        for name, x_NE in frames.items():
            begun = time.process_time()
            books[name].encode(x_NE)
            encoding[name] += time.process_time() - begun
    total = time.process_time() - start
    return total - sum(encoding.values()), list(encoding.values())


def random_codebooks(teacher) -> dict:
    """16 codebooks of each target; how long encoding takes is the same for all."""
    return {
        spec.name: Codebooks(
            torch.randn(16, CODEBOOK_SIZE, spec.dim),
            torch.zeros(spec.dim),
            torch.ones(spec.dim),
        )
        for spec in teacher.targets
    }


def ours(teacher, utts, batch_seconds: float, exact: bool):
    """Seconds, and target name -> {utterance: (frames, E)}."""
    start = time.perf_counter()
    out = {}
    batches = plan_batches(utts, round(16000 * batch_seconds), exact)
    for batch, speech in load_batches(batches, "cpu"):
        for utt, row in zip(batch, embed(teacher, batch, speech), strict=True):
            out[utt.utt] = row
    return time.perf_counter() - start, out


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wav_scp", type=Path, default="dump/raw/train/wav.scp")
    parser.add_argument("--num_utts", type=int, default=64)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--batch_seconds", type=float, default=20.0)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)

    from espnet_mtkd.data.kaldi import read_wav_scp
    from espnet_mtkd.teachers.base import TeacherConfig
    from espnet_mtkd.teachers.hub import import_s3prl_hub
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher

    import_s3prl_hub()
    from s3prl.nn import S3PRLUpstream

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hubert.pt"
        build_hubert(path)
        upstream = S3PRLUpstream("hubert_local", path_or_url=str(path)).eval()
        teacher = S3PRLTeacher(
            TeacherConfig("t", "hubert_local", path_or_url=str(path), layers=LAYERS)
        )
    entries = list(read_wav_scp(args.wav_scp).items())
    entries = entries[:: max(1, len(entries) // args.num_utts)][: args.num_utts]
    nums = [soundfile.info(audio).frames for _, audio in entries]
    frames = teacher.count_frames(nums, 320)
    utts = [
        Utterance(utt, audio, n, f)
        for (utt, audio), n, f in zip(entries, nums, frames, strict=True)
    ]
    plain_loop(upstream, utts[:8])  # warm up both
    ours(teacher, utts[:8], args.batch_seconds, False)

    loop_s = plain_loop(upstream, utts)
    fast_s, _ = ours(teacher, utts, args.batch_seconds, False)
    exact_s, found = ours(teacher, utts, args.batch_seconds, True)
    worst = 0.0
    with torch.no_grad():
        for utt in utts[:: max(1, len(utts) // 16)]:
            wave = torch.from_numpy(soundfile.read(utt.audio, dtype="float32")[0])
            hidden, _ = upstream(wave[None], torch.tensor([len(wave)]))
            for layer in LAYERS:
                expected = hidden[layer][0, : utt.num_frames]
                difference = found[utt.utt][f"t_l{layer}"] - expected
                worst = max(worst, float(difference.norm() / expected.norm()))
    hours = sum(nums) / 16000 / 3600
    print(f"{len(utts)} utterances, {hours:.3f} h, layers {LAYERS} of 13 hidden states")
    print(f"plain loop {loop_s:.1f} s")
    print(f"default    {fast_s:.1f} s: {loop_s / fast_s:.2f} x as fast")
    print(f"--exact    {exact_s:.1f} s: {loop_s / exact_s:.2f} x as fast")
    books = random_codebooks(teacher)
    with torch.inference_mode():
        with_codes(teacher, utts[:8], args.batch_seconds, books)
        without_s, codes_s = with_codes(teacher, utts, args.batch_seconds, books)
    one, both = (1 + seconds / without_s for seconds in (codes_s[-1], sum(codes_s)))
    print(
        f"with codes : without = {one:.3f} for layer {LAYERS[-1]}, {both:.3f} for "
        f"{len(LAYERS)} layers, of 768 dimensions, in CPU time"
    )
    print(f"--exact against each utterance alone: relative difference {worst:.1e}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
