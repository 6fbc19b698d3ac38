"""The cost of distilling at the best path's nodes.

    python benchmarks/path_kd.py

First a training step of the recipe's Conformer transducer (forward, backward; random
weights, random targets) without and with path distillation from a store, in turn, on
the same batch. Then the distillation loss alone, forward and backward, at the T + U
nodes of a path and on the whole lattice of T x U, over several T, U and V: time, and
the bytes of the student's logits, which are the largest tensor of both.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf/train_asr_conformer_transducer.yaml"
TOKENS = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ' ", "<sos/eos>"]
SIZES = [(75, 30, 31), (250, 60, 500), (250, 60, 5000), (500, 120, 500)]


def median_seconds(functions, num_rounds: int) -> list[float]:
    """Median time of each function, called in turn."""
    times = [[] for _ in functions]
    for _ in range(num_rounds + 1):
        for function, row in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            row.append(time.perf_counter() - start)
    return [statistics.median(row[1:]) for row in times]


def build_student():
    """The recipe's student as the task builds it."""
    from espnet_mtkd.transducer.task import MTKDASRTask

    args = MTKDASRTask.get_default_config()
    args.update(yaml.safe_load(CONFIG.read_text("utf-8")))
    args.update(token_list=TOKENS, token_type="char", normalize="utterance_mvn")
    return MTKDASRTask.build_model(argparse.Namespace(**args)).train()


def write_paths(folder: Path, labels, num_samples, num_frames, num_tokens: int):
    """A store of random paths for the batch."""
    from espnet_mtkd.targets.store import shard_name, write_manifest, write_shard
    from espnet_mtkd.transducer.extract_paths import find_path
    from espnet_mtkd.transducer.paths import path_targets

    targets = path_targets(num_tokens, len(TOKENS), 640)
    rows = []
    for row, T in zip(labels, num_frames, strict=True):
        logits = torch.randn(T, len(row) + 1, len(TOKENS))
        nodes, logp = find_path(logits, row.numpy(), 0, num_tokens)
        rows.append({"nodes": nodes, "logp": logp})
    folder.mkdir()
    write_shard(folder / shard_name(0), "", targets, rows)
    utts = [
        (f"u{i}", n, len(row["nodes"]))
        for i, (n, row) in enumerate(zip(num_samples, rows, strict=True))
    ]
    fingerprint = {"model": "", "tokens": TOKENS, "num_tokens": num_tokens}
    write_manifest(folder, fingerprint, targets, [utts])


def training_step(num_rounds: int) -> None:
    """Print the ratio of a step with and without path distillation."""
    from espnet_mtkd.transducer.model import PathKDConfig
    from espnet_mtkd.transducer.paths import PathStores

    rng = np.random.default_rng(0)
    model = build_student()
    num_samples = sorted(rng.integers(24_000, 72_000, 8).tolist())[::-1]
    labels = [torch.from_numpy(rng.integers(2, 30, n // 1200)) for n in num_samples]
    speech = torch.zeros(8, num_samples[0])
    for i, n in enumerate(num_samples):
        speech[i, :n] = 0.1 * torch.randn(n)
    batch = dict(
        speech=speech,
        speech_lengths=torch.tensor(num_samples),
        text=torch.nn.utils.rnn.pad_sequence(labels, True, -1),
        text_lengths=torch.tensor([len(x) for x in labels]),
        utt_id=[f"u{i}" for i in range(8)],
    )
    with tempfile.TemporaryDirectory() as folder:
        frames = [n // 640 for n in num_samples]
        write_paths(Path(folder) / "train", labels, num_samples, frames, 8)
        paths = PathStores(folder)
        model.distil_from(paths, PathKDConfig())

        def step(with_paths):
            model.paths = paths if with_paths else None
            model.zero_grad()
            loss, _, _ = model(**{k: _copy(v) for k, v in batch.items()})
            loss.sum().backward()

        without, with_kd = median_seconds(
            [lambda: step(False), lambda: step(True)], num_rounds
        )
    print(f"step without path distillation {without:.3f} s, with {with_kd:.3f} s")
    print(f"with : without = {with_kd / without:.3f}")


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def loss_alone(T: int, U: int, V: int, num_rounds: int) -> None:
    """Print path against lattice, for one utterance."""
    from espnet2.asr_transducer.joint_network import JointNetwork

    from espnet_mtkd.transducer.extract_paths import find_path
    from espnet_mtkd.transducer.kd import path_kd_loss

    torch.manual_seed(0)
    joint = JointNetwork(V, 128, 128, joint_space_size=128)
    h = torch.randn(T, 128, requires_grad=True)
    g = torch.randn(U + 1, 128, requires_grad=True)
    labels = torch.randint(1, V, (U,))
    teacher = torch.randn(T, U + 1, V)
    nodes, logp = find_path(teacher, labels.numpy(), 0, 8)
    nodes = torch.from_numpy(nodes.astype("int64"))
    logp = torch.from_numpy(logp).float()
    teacher = teacher.softmax(2)

    def on_path():
        logits = joint(h[nodes[:, 0]], g[nodes[:, 1]])
        loss = path_kd_loss(logits, nodes[:, 2:], logp, nodes[:, 1] < U)
        loss.sum().backward()

    def on_lattice():
        logits = joint(h[:, None], g[None])
        (-teacher * logits.log_softmax(2)).sum().backward()

    path_s, lattice_s = median_seconds([on_path, on_lattice], num_rounds)
    path_mb, lattice_mb = ((n * V * 4e-6) for n in (T + U, T * (U + 1)))
    print(
        f"T {T}, U {U}, V {V}: path {1e3 * path_s:.1f} ms, {path_mb:.2f} MB; lattice "
        f"{1e3 * lattice_s:.1f} ms, {lattice_mb:.1f} MB: {lattice_s / path_s:.0f} x "
        f"the time, {lattice_mb / path_mb:.0f} x the memory"
    )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_rounds", type=int, default=7)
    parser.add_argument("--num_threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    training_step(args.num_rounds)
    for size in SIZES:
        loss_alone(*size, args.num_rounds)


if __name__ == "__main__":
    main()
