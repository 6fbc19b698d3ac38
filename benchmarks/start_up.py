"""What stage 1 does before its first step on a large corpus: seconds and memory.

    python benchmarks/start_up.py --num_utts 1000000

Lists of so many utterances are made up (ids as long as LibriSpeech's, 1 to 20 s; no
audio behind them). Each part runs in a process of its own: ESPnet's data set, which
reads wav.scp; ESPnet's batch sampler, which reads and sorts the lengths; an epoch's
shuffled batches; and this package's check of both lists, without the audio itself.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HEAD = """
import json, re, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
scp, shape = folder / "wav.scp", folder / "speech_shape"
def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1e3
"""
TAIL = """
before, start = peak_mb(), time.perf_counter()
work()
print(json.dumps([time.perf_counter() - start, peak_mb() - before]))
"""
PARTS = {
    "ESPnet's data set": """
from espnet2.train.dataset import ESPnetDataset
def work():
    ESPnetDataset([(str(scp), "speech", "sound")])
""",
    "ESPnet's batch sampler": """
from espnet2.samplers.build_batch_sampler import build_batch_sampler
def work():
    build_batch_sampler(
        type="numel", batch_size=1, batch_bins=16_000_000, shape_files=[str(shape)],
        padding=True, min_batch_size=1,
    )
""",
    "the batches of an epoch, shuffled": """
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.samplers.build_batch_sampler import build_batch_sampler
batches = list(build_batch_sampler(
    type="numel", batch_size=1, batch_bins=16_000_000, shape_files=[str(shape)],
    padding=True, min_batch_size=1,
))
class Nothing:
    pass
factory = SequenceIterFactory(Nothing(), batches, shuffle=True)
def work():
    for epoch in (1, 2):
        factory.build_iter(epoch)
""",
    "this package's check of both lists": """
from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
def work():
    files = read_wav_scp(scp)
    lengths = {u: int(n) for u, n in read_lines(shape, "lengths").items()}
    assert files.keys() == lengths.keys()
""",
}


def main():
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_utts", type=int, default=1_000_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        lengths = rng.integers(16_000, 320_000, args.num_utts)
        utts = [f"{i // 97:05d}-{i % 7919:06d}-{i:07d}" for i in range(args.num_utts)]
        with open(Path(folder) / "wav.scp", "w") as f:
            f.writelines(f"{u} dump/raw/train/data/format.1/{u}.flac\n" for u in utts)
        with open(Path(folder) / "speech_shape", "w") as f:
            f.writelines(f"{u} {n}\n" for u, n in zip(utts, lengths, strict=True))
        print(f"{args.num_utts} utterances, {lengths.sum() / 16_000 / 3600:.0f} hours")
        print("\n| part | seconds | MB |\n|---|---:|---:|")
        for name, part in PARTS.items():
            found = subprocess.run(
                [sys.executable, "-c", HEAD + part + TAIL, folder],
                capture_output=True,
                text=True,
            )
            if found.returncode:
                sys.exit(found.stderr)
            seconds, megabytes = json.loads(found.stdout.splitlines()[-1])
            print(f"| {name} | {seconds:.1f} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
