"""What the kept teachers' loss costs a training step of stage 2.

    python benchmarks/kept_teachers.py [--encoder contextual_block_conformer]

A step of the recipe's transducer (forward, backward, clipping, Adam; random weights, a
batch of 12.5 s) without and with two kept teachers whose targets are read from a store,
in turn, on the same batch. The targets are random codes, 16 bytes a frame, of as many
dimensions as those of Whisper tiny.en and base.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ' ", "<sos/eos>"]
NUM_TOKENS = len(TOKENS)
DIMS = {"tiny": 384, "base": 512}
NUM_CODEBOOKS = 16
NUM_SAMPLES = [41_000, 40_500, 40_000, 39_500, 39_000]  # 12.5 s, as sorted batches are
FRAME_SHIFT = 320


def build_student(encoder: str, conf: Path = ROOT / "conf", tokens=TOKENS):
    """The student of a recipe's configs as the task builds it."""
    from espnet_mtkd.transducer.task import MTKDASRTask

    path = conf / f"train_asr_{encoder}_transducer.yaml"
    args = MTKDASRTask.get_default_config()
    args.update(yaml.safe_load(path.read_text("utf-8")))
    args.update(token_list=tokens, token_type="char", normalize="utterance_mvn")
    return MTKDASRTask.build_model(argparse.Namespace(**args)).train()


def write_targets(folder: Path, name: str, dim: int, num_samples=NUM_SAMPLES):
    """A store of random codes for a batch; the teacher's config."""
    from espnet_mtkd.targets.quantizer import Codebooks, dump_codebooks
    from espnet_mtkd.targets.store import (
        StoredTarget,
        shard_name,
        write_manifest,
        write_shard,
    )
    from espnet_mtkd.teachers.base import TeacherConfig

    config = TeacherConfig(name, "whisper_local", layers=(0,))
    stored = StoredTarget(
        f"{name}_l0", 0, dim, FRAME_SHIFT, NUM_CODEBOOKS, "uint8", 0.0
    )
    entries = torch.randn(NUM_CODEBOOKS, 256, dim) / NUM_CODEBOOKS**0.5
    book = Codebooks(entries, torch.zeros(dim), torch.ones(dim))
    content = dump_codebooks({stored.name: book}, {})
    store = folder / name / "train"
    store.mkdir(parents=True)
    (folder / name / "codebooks.safetensors").write_bytes(content)
    rng = np.random.default_rng(0)
    rows = [
        rng.integers(0, 256, (n // FRAME_SHIFT, NUM_CODEBOOKS)).astype(np.uint8)
        for n in num_samples
    ]
    write_shard(store / shard_name(0), "", [stored], [{stored.name: r} for r in rows])
    utts = [
        (f"u{i}", n, len(row))
        for i, (n, row) in enumerate(zip(num_samples, rows, strict=True))
    ]
    fingerprint = dict(
        upstream=config.upstream,
        normalize=False,
        extra_conf={},
        checkpoint=None,
        num_layers=1,
        layers=[0],
        form="codes",
        codebooks=hashlib.sha256(content).hexdigest(),
    )
    write_manifest(store, fingerprint, [stored], [utts])
    return config


def stored_teachers(folder: Path, dims=DIMS, num_samples=NUM_SAMPLES):
    """Teachers that are read from stores of random codes, which are written first."""
    from espnet_mtkd.targets.teacher import CachedTeacher
    from espnet_mtkd.teachers.s3prl import TeacherPool

    configs = [write_targets(folder, k, dim, num_samples) for k, dim in dims.items()]
    return TeacherPool(configs, lambda c: CachedTeacher(c, folder))


def kept_teachers(model, teachers):
    """Heads with random weights over their targets."""
    from espnet_mtkd.objective.losses import EmbeddingLoss
    from espnet_mtkd.pretraining.model import objective_on
    from espnet_mtkd.student.grid import FrameGrid
    from espnet_mtkd.transducer.kept import KeptTeachers
    from espnet_mtkd.transducer.kept_options import KeptOptions

    grid = FrameGrid.of(model.frontend, model.encoder)
    objective = objective_on(
        model.encoder, grid, teachers.targets, loss=EmbeddingLoss()
    )
    return KeptTeachers(objective, teachers, KeptOptions())


def make_batch(num_samples=NUM_SAMPLES, num_tokens=NUM_TOKENS, rate=14) -> dict:
    """Noise, and random transcripts of so many tokens a second."""
    torch.manual_seed(0)
    labels = [torch.randint(2, num_tokens, (n * rate // 16_000,)) for n in num_samples]
    return dict(
        speech=0.1 * torch.randn(len(num_samples), num_samples[0]),
        speech_lengths=torch.tensor(num_samples),
        text=torch.nn.utils.rnn.pad_sequence(labels, True, -1),
        text_lengths=torch.tensor([len(x) for x in labels]),
        utt_id=[f"train/u{i}" for i in range(len(num_samples))],
    )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="conformer")
    parser.add_argument("--num_rounds", type=int, default=30)
    parser.add_argument("--num_threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    batch = make_batch()
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("without", "with"):
            model = build_student(args.encoder)
            if name == "with":
                model.keep_teachers(kept_teachers(model, stored_teachers(Path(folder))))
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

            def step(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                copied = {
                    k: v.clone() if isinstance(v, torch.Tensor) else v
                    for k, v in batch.items()
                }
                model(**copied)[0].sum().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()

            steps[name] = step
        times = {name: [] for name in steps}
        for _ in range(args.num_rounds + 2):
            for name, step in steps.items():
                start = time.process_time()
                step()
                times[name].append(time.process_time() - start)
    # The quickest tenth: what a busy machine adds is none of the step's.
    quick = {
        name: statistics.mean(sorted(row[2:])[: max(1, len(row) // 10)])
        for name, row in times.items()
    }
    for name, seconds in quick.items():
        print(f"step {name} kept teachers: {1e3 * seconds:.0f} ms of processor time")
    print(f"with : without = {quick['with'] / quick['without']:.3f}")


if __name__ == "__main__":
    main()
