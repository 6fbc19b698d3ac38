"""What safe saves, watched steps and looked-at audio cost of an epoch.

    python benchmarks/survival_cost.py [--recipe egs2/asterisk/mtkd1]

The student and the optimiser of a recipe's stage 1, on one thread, with targets that
cost nothing, so that an epoch is as short as it can be (validation is left out too).
An epoch is --hours of speech. Each row is measured in the same run, between the steps,
as the median of --num_steps; once in time that passes, for steps and all else alike,
and once in processor time, in which waits for a disk are not, nor other programs.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch
from training_step import Zeros, build, step

from espnet_mtkd.data.listed import check_listed
from espnet_mtkd.pretraining.check import check_speech
from espnet_mtkd.teachers.base import TargetSpec
from espnet_mtkd.training.checkpoints import save, save_checkpoint
from espnet_mtkd.training.watch import StepWatch

RATE = 16000
BATCH_SECONDS = 12.5
NUM_UTTS = 4  # of a batch
DIMS = (512, 384)  # of the targets
NUM_EPOCHS = 25  # of a training, whose audio is looked at once


def timed(run):
    """Seconds that a function takes: those that pass, and those of the processor."""
    start = time.perf_counter(), time.process_time()
    run()
    end = time.perf_counter(), time.process_time()
    return np.subtract(end, start)


def targets() -> list[TargetSpec]:
    """One of each teacher of the recipe."""
    rest = dict(layer=4, frame_shift=320, frame_centre=160.0, weight=1.0)
    return [
        TargetSpec(name=f"t{dim}_l4", teacher=f"t{dim}", dim=dim, **rest)
        for dim in DIMS
    ]


def write_audio(folder: Path, seconds: float) -> tuple[Path, dict[str, int]]:
    """A wav.scp of noise, as FLAC, and the lengths."""
    each = round(RATE * BATCH_SECONDS / NUM_UTTS)
    generator = np.random.default_rng(0)
    lengths, lines = {}, []
    for i in range(round(seconds * RATE / each)):
        path = folder / f"{i:04d}.flac"
        soundfile.write(path, 0.1 * generator.standard_normal(each), RATE)
        lengths[f"u{i:04d}"] = each
        lines.append(f"u{i:04d} {path}\n")
    scp = folder / "wav.scp"
    scp.write_text("".join(lines))
    return scp, lengths


def save_plainly(state: dict, model: dict, folder: Path) -> None:
    """As ESPnet's trainer does."""
    torch.save(state, folder / "checkpoint.pth")
    torch.save(model, folder / "1epoch.pth")


def save_safely(state: dict, model: dict, folder: Path) -> None:
    """As this package's does."""
    save_checkpoint(state, folder)
    save(model, folder / "1epoch.pth")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=Path("egs2/asterisk/mtkd1"))
    parser.add_argument("--hours", type=float, default=0.24, help="of an epoch")
    parser.add_argument("--num_steps", type=int, default=20)
    args = parser.parse_args()
    os.chdir(args.recipe)
    torch.set_num_threads(1)
    config = {
        "train": "conf/train_mtkd.yaml",
        "asr": "conf/train_asr_conformer_transducer.yaml",
    }
    model, optimizer = build(config, Zeros(SimpleNamespace(targets=targets())), "cpu")
    speech = 0.1 * torch.randn(NUM_UTTS, round(RATE * BATCH_SECONDS / NUM_UTTS))
    lengths = torch.full((NUM_UTTS,), speech.size(1))
    utts = [f"u{i}" for i in range(NUM_UTTS)]
    num_batches = round(args.hours * 3600 / BATCH_SECONDS)
    seconds = {"step": [], "watched": [], "finite": [], "safe": [], "plain": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = StepWatch(model, [optimizer], folder, num_batches, 1, None, True)
        for number in range(args.num_steps + 3):
            batch = {"speech": speech, "speech_lengths": lengths}
            before = timed(lambda: watch.before(utts, batch))  # noqa: B023
            took = timed(lambda: step(model, optimizer, utts, speech, lengths))
            after = timed(watch.after)
            finite = timed(lambda: check_speech(utts, speech))
            weights = model.state_dict()
            state = {"model": weights, "optimizers": [optimizer.state_dict()]}
            if number < 3:
                continue
            seconds["step"].append(took)
            seconds["watched"].append(before + after)
            seconds["finite"].append(finite)
            for kind, run in (("safe", save_safely), ("plain", save_plainly)):
                took = timed(lambda: run(state, weights, folder))  # noqa: B023
                seconds[kind].append(took)
        scp, listed = write_audio(folder, args.hours * 3600)
        first, again = (
            timed(lambda: check_listed(scp, listed, scp, folder)) for _ in range(2)
        )
    median = {kind: np.median(values, 0) for kind, values in seconds.items()}
    epoch = num_batches * median["step"]
    print(
        f"an epoch: {num_batches} batches of {BATCH_SECONDS} s, {epoch[0]:.1f} s, "
        f"{epoch[1]:.1f} s of the processor; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters\n"
    )
    print("| in each epoch | s | share | of the processor, s | share |")
    print("|---|---|---|---|---|")
    rows = {
        "steps watched": num_batches * median["watched"],
        "samples looked at": num_batches * median["finite"],
        "saves, beyond ESPnet's own": median["safe"] - median["plain"],
        f"audio looked at, once in {NUM_EPOCHS} epochs": first / NUM_EPOCHS,
        "audio known, at a resumed training": again / NUM_EPOCHS,
    }
    rows["together"] = sum(rows.values())
    for name, value in rows.items():
        cells = [f"{s:.3f} | {s / of:.2%}" for s, of in zip(value, epoch, strict=True)]
        print(" | ".join([f"| {name}", *cells]) + " |")


if __name__ == "__main__":
    main()
