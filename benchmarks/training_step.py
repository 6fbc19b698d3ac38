"""What reading stored targets costs a training step, and what live teachers cost it.

    python benchmarks/training_step.py --recipe egs2/asterisk/mtkd1 --expdir exp

needs stages 6 to 8 of the recipe with --teacher_mode cached. Three students of the same
seed take the same batches in turn, so that all suffer alike from whatever else runs:
with stored targets, with zeros in place of targets (heads and loss, no teacher), and
with live teachers that remember nothing. Prints medians and their ratios.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
import yaml

from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.targets.embeddings import load_batches
from espnet_mtkd.targets.plan import Utterance, plan_batches


class Zeros:
    """Targets of the right shape that cost nothing."""

    def __init__(self, teachers):
        self.targets = teachers.targets

    def __call__(self, speech, lengths, utt_ids=None):
        """Zeros (B, T, E) and the frames that a teacher would give."""
        out = {}
        for spec in self.targets:
            frames = lengths // spec.frame_shift
            shape = len(lengths), int(frames.max()), spec.dim
            out[spec.name] = torch.zeros(shape, device=speech.device), frames
        return out


def build(config: dict, teachers, device: str):
    """A student, its standardisers set, and its optimizer."""
    from espnet_mtkd.bin.mtkd_train import get_parser
    from espnet_mtkd.objective.losses import EmbeddingLoss
    from espnet_mtkd.pretraining.model import ESPnetMTKDModel
    from espnet_mtkd.pretraining.task import build_student, read_student_config

    torch.manual_seed(0)
    args = get_parser().parse_args(["--config", config["train"], "--output_dir", "x"])
    args.student_config = config["asr"]
    read_student_config(args)
    args.normalize, args.normalize_conf = "utterance_mvn", {}
    model = ESPnetMTKDModel(*build_student(args), teachers, EmbeddingLoss()).to(device)
    for standardizer in model.objective.standardizers.values():
        standardizer.num_frames.fill_(1)
    return model.train(), torch.optim.Adam(model.parameters(), lr=1e-4)


def step(model, optimizer, utts, speech, lengths) -> float:
    """One update; seconds."""
    if speech.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss, _, _ = model(speech, lengths, utt_id=utts)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    if speech.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=Path("egs2/asterisk/mtkd1"))
    parser.add_argument("--expdir", type=Path, default=Path("exp"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--batch_seconds", type=float, default=12.5)
    parser.add_argument("--num_batches", type=int, default=40)
    args = parser.parse_args()
    os.chdir(args.recipe)
    torch.set_num_threads(args.num_threads)

    from espnet_mtkd.targets.teacher import CachedTeacher
    from espnet_mtkd.teachers.base import parse_teachers
    from espnet_mtkd.teachers.s3prl import TeacherPool

    configs = parse_teachers("conf/teachers.yaml")
    cached = TeacherPool(
        configs, lambda c: CachedTeacher(c, args.expdir / "mtkd_targets")
    )
    pools = {"none": Zeros(cached), "cached": cached, "live": TeacherPool(configs)}
    config = {
        "train": "conf/train_mtkd.yaml",
        "asr": "conf/train_asr_conformer_transducer.yaml",
    }
    assert yaml.safe_load(Path(config["train"]).read_text())["align"] == "concat"
    runs = {name: build(config, pool, args.device) for name, pool in pools.items()}

    audios = read_wav_scp(Path("dump/raw/train/wav.scp"))
    lengths = read_lengths(args.expdir / "mtkd_stats/train/speech_shape")
    utts = [Utterance(u, audios[u], n, 0) for u, n in lengths.items()]
    batches = plan_batches(utts, round(16000 * args.batch_seconds))
    batches = batches[:: max(1, len(batches) // args.num_batches)]
    seconds = {name: [] for name in runs}
    for i, (batch, speech) in enumerate(load_batches(batches, args.device)):
        for name, (model, optimizer) in runs.items():
            took = step(model, optimizer, [u.utt for u in batch], *speech)
            if i >= 3:  # the first ones warm up
                seconds[name].append(took)
    median = {name: statistics.median(x) for name, x in seconds.items()}
    # Medians of ratios within a batch: batches differ in length.
    for name in ("cached", "live"):
        ratio = statistics.median(
            a / b for a, b in zip(seconds[name], seconds["none"], strict=True)
        )
        print(
            f"{name} : no teachers = {ratio:.3f} ({median[name] * 1e3:.0f} ms a step)"
        )
    ratio = statistics.median(
        a / b for a, b in zip(seconds["live"], seconds["cached"], strict=True)
    )
    print(f"live : cached = {ratio:.2f}")
    print(
        f"{len(seconds['none'])} batches of {args.batch_seconds:g} s, {args.device}, "
        f"{args.num_threads} thread(s), no teachers: {median['none'] * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
