"""Libraries that quantise embeddings, on real ones: error, training and encoding time.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/quantizers.py --name whisper_base

needs stages 1 to 4 of the recipe and its teachers. Trains on the training set, measures
on the validation set: squared error relative to the variance and mean cosine, both in
standardised dimensions; times are this process's CPU time. `rq4` is faiss's residual
quantiser with the beam of `ours`. `--methods` chooses. `vector_quantize` (lucidrains':
`pip install vector-quantize-pytorch einx`; its residual quantiser with k-means
initialisation) and `multi_quantization` (k2-fsa's: `pip install multi_quantization
h5py`) are trained step by step: `--steps` of the one, and as many for each of the two
phases of the other (its own default is 10000, hours on a CPU).

    python benchmarks/quantizers.py --encoding

needs nothing: the speed of encoding random frames by random codebooks of 512 and 1024
dimensions, `rq4` and `ours` in turn, and of the one matrix product of `ours` alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

METHODS = "pq opq rq1 rq4 ours rq16 lsq vector_quantize multi_quantization".split()


def embeddings(config, wav_scp: Path) -> np.ndarray:
    """(frames, E) of the config's first layer over a wav.scp."""
    from espnet_mtkd.data.kaldi import read_wav_scp
    from espnet_mtkd.targets.embeddings import embed, load_batches
    from espnet_mtkd.targets.plan import Utterance, plan_batches
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher

    teacher = S3PRLTeacher(config)
    entries = read_wav_scp(wav_scp)
    nums = [soundfile.info(audio).frames for audio in entries.values()]
    frames = teacher.count_frames(nums, teacher.targets[0].frame_shift)
    utts = [
        Utterance(utt, audio, n, f)
        for (utt, audio), n, f in zip(entries.items(), nums, frames, strict=True)
    ]
    name = teacher.targets[0].name
    return np.concatenate(
        [
            row[name].numpy()
            for batch, speech in load_batches(plan_batches(utts, 320000), "cpu")
            for row in embed(teacher, batch, speech)
        ]
    )


def by_ours(num: int, train, test):
    """This package's own."""
    from espnet_mtkd.targets.quantizer import Codebooks, train_entries

    x, y = torch.from_numpy(train), torch.from_numpy(test)
    dim = x.size(1)
    start = time.process_time()
    entries = train_entries(x, num)
    trained = time.process_time()
    books = Codebooks(entries, torch.zeros(dim), torch.ones(dim))
    books.encode(y[:1])  # the tables, made once
    started = time.process_time()
    codes = books.encode(y)
    encoded = time.process_time() - started
    return books.decode(codes).numpy(), trained - start, encoded


def by_faiss(quantizer, train, test):
    """Train, encode and decode with anything that has faiss's three methods."""
    start = time.process_time()
    quantizer.train(train)
    trained = time.process_time()
    codes = quantizer.compute_codes(test)
    return quantizer.decode(codes), trained - start, time.process_time() - trained


def run(method: str, num: int, train, test, steps: int):
    """Reconstruction of `test`, seconds of training and of encoding."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    dim = train.shape[1]
    if method == "pq":
        return by_faiss(faiss.ProductQuantizer(dim, num, 8), train, test)
    if method == "lsq":
        return by_faiss(faiss.LocalSearchQuantizer(dim, num, 8), train, test)
    if method == "opq":
        start = time.process_time()
        rotation = faiss.OPQMatrix(dim, num)
        rotation.train(train)
        seconds = time.process_time() - start
        out, trained, encoded = by_faiss(
            faiss.ProductQuantizer(dim, num, 8),
            rotation.apply(train),
            rotation.apply(test),
        )
        return rotation.reverse_transform(out), seconds + trained, encoded
    if method == "multi_quantization":
        return by_multi_quantization(num, train, test, steps)
    if method == "ours":
        return by_ours(num, train, test)
    if method == "vector_quantize":
        return by_vector_quantize(num, train, test, steps)
    quantizer = faiss.ResidualQuantizer(dim, num, 8)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = {"rq1": 1, "rq4": 4, "rq16": 16}[method]
    return by_faiss(quantizer, train, test)


def by_multi_quantization(num: int, train, test, steps: int):
    """k2-fsa's trainer, batches of 600 frames as its authors use."""
    from multi_quantization.quantization import QuantizerTrainer

    x = torch.from_numpy(train)
    trainer = QuantizerTrainer(train.shape[1], num, torch.device("cpu"), steps, steps)
    start = time.process_time()
    while not trainer.done():
        trainer.step(x[torch.randint(len(x), (600,))])
    trained = time.process_time()
    quantizer = trainer.get_quantizer()
    with torch.no_grad():
        out = quantizer.decode(quantizer.encode(torch.from_numpy(test))).numpy()
    return out, trained - start, time.process_time() - trained


def by_vector_quantize(num: int, train, test, steps: int):
    """lucidrains' residual quantiser; the codebooks follow the batches by averages."""
    from vector_quantize_pytorch import ResidualVQ

    x = torch.from_numpy(train)
    quantizer = ResidualVQ(
        dim=train.shape[1], num_quantizers=num, codebook_size=256, kmeans_init=True
    )
    start = time.process_time()
    for step in range(steps):
        size = 20_000 if step == 0 else 2_000  # k-means sees the first batch alone
        quantizer(x[torch.randint(len(x), (size,))][None])
    trained = time.process_time()
    quantizer.eval()
    with torch.no_grad():
        _, codes, _ = quantizer(torch.from_numpy(test)[None])
        out = quantizer.get_output_from_indices(codes)[0].numpy()
    return out, trained - start, time.process_time() - trained


def compare_encoding(dim: int, num: int, num_frames: int = 2048) -> None:
    """Print frames a second and core, the best of five rounds of all in turn."""
    import faiss

    from espnet_mtkd.targets.quantizer import Codebooks

    faiss.omp_set_num_threads(torch.get_num_threads())
    torch.manual_seed(0)
    scale = 0.9 ** torch.arange(num)[:, None, None]
    entries = scale * torch.randn(num, 256, dim)
    x = (entries[:, torch.randint(256, (num_frames,))]).sum(0)
    x += 0.5 * torch.randn(num_frames, dim)
    theirs = faiss.ResidualQuantizer(dim, num, 8)
    theirs.max_beam_size = 4
    faiss.copy_array_to_vector(entries.numpy().ravel(), theirs.codebooks)
    theirs.is_trained = True
    ours = Codebooks(entries, torch.zeros(dim), torch.ones(dim))
    table = entries.flatten(0, 1).T.contiguous()
    functions = {
        "rq4": lambda: torch.from_numpy(theirs.compute_codes(x.numpy())),
        "ours": lambda: ours.encode(x),
        "product": lambda: [part @ table for part in x.split(256)],
    }
    errors = {
        name: float((ours.decode(functions[name]()) - x).square().sum())
        for name in ("rq4", "ours")
    }
    seconds = {name: [] for name in functions}
    for _ in range(5):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    rates = {name: num_frames / min(values) for name, values in seconds.items()}
    flop = 2e-6 * dim * num * 256
    print(
        f"{dim} dimensions, {num} codebooks: rq4 {rates['rq4']:.0f} frames/s, ours "
        f"{rates['ours']:.0f} ({rates['ours'] / rates['rq4']:.1f} x), the product "
        f"alone ({flop:.1f} MFLOP a frame) {rates['product']:.0f}; error of ours : "
        f"rq4 = {errors['ours'] / errors['rq4']:.4f}",
        flush=True,
    )


def main():
    """Measure and print, a line a method as it ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", default="conf/teachers.yaml")
    parser.add_argument("--name", default="whisper_base", help="of the teacher")
    parser.add_argument("--train", type=Path, default="dump/raw/train/wav.scp")
    parser.add_argument("--test", type=Path, default="dump/raw/valid/wav.scp")
    parser.add_argument("--num_codebooks", type=int, default=16)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS[:6], choices=METHODS)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--encoding", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    if args.encoding:
        for dim in (512, 1024):
            compare_encoding(dim, args.num_codebooks)
        return

    from espnet_mtkd.teachers.base import parse_teachers

    (config,) = (c for c in parse_teachers(args.teachers) if c.name == args.name)
    train, test = (embeddings(config, scp) for scp in (args.train, args.test))
    mean, std = train.mean(0), train.std(0)
    train, test = ((x - mean) / std for x in (train, test))
    print(
        f"{args.name}: {len(train)} frames to train on, {len(test)} to measure, "
        f"{args.num_codebooks} codebooks, {args.num_threads} thread(s)"
    )
    for method in args.methods:
        out, trained, encoded = run(method, args.num_codebooks, train, test, args.steps)
        error = ((test - out) ** 2).sum() / (test**2).sum()
        norms = np.linalg.norm(test, axis=1) * np.linalg.norm(out, axis=1)
        cosine = ((test * out).sum(1) / norms).mean()
        print(
            f"{method:20} error {error:.4f}, cosine {cosine:.4f}"
            f", trained in {trained:.0f} s, {len(test) / encoded:.0f} frames/s encoded",
            flush=True,
        )


if __name__ == "__main__":
    main()
