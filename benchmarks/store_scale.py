"""A store of a million utterances: seconds to open it, and memory while it is read.

    python benchmarks/store_scale.py --num_utts 1000000

The manifest is synthetic (ids as long as LibriSpeech's, no shard behind it) and opened
in a fresh process; a second, real store of 20,000 utterances of 2 s is read through
three times.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from espnet_mtkd.targets import store as st

TARGETS = [st.StoredTarget("t_l9", 9, 768, 320, 16, "uint8")]

OPEN = """
import json, re, sys, time
from pathlib import Path
from espnet_mtkd.targets.store import TargetStore
def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1e3
before = peak_mb()
start = time.perf_counter()
store = TargetStore(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps([len(store), seconds, before, peak_mb()]))
"""


def resident_mb() -> float:
    """Resident memory that is not shared with the page cache, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("no RssAnon in /proc/self/status: Linux is needed")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_utts", type=int, default=1_000_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder) / "big"
        big.mkdir()
        per_shard = 10_000
        frames = rng.integers(100, 1700, args.num_utts).tolist()
        shards = [
            [
                (f"{i // 97:05d}-{i % 7919:06d}-{i:07d}", 320 * frames[i], frames[i])
                for i in range(start, min(start + per_shard, args.num_utts))
            ]
            for start in range(0, args.num_utts, per_shard)
        ]
        for i in range(len(shards)):
            (big / st.shard_name(i)).write_bytes(b"")
        st.write_manifest(big, {}, TARGETS, shards)
        out = subprocess.run(
            [sys.executable, "-c", OPEN, str(big)], check=True, stdout=subprocess.PIPE
        )
        num, seconds, before, peak = json.loads(out.stdout)
        size = (big / st.MANIFEST).stat().st_size / 1e6
        print(
            f"{num} utterances: manifest {size:.0f} MB, opened in {seconds:.2f} s; "
            f"peak memory {peak:.0f} MB, {before:.0f} MB of it before opening"
        )

        small = Path(folder) / "small"
        small.mkdir()
        shards = [[(f"u{j}-{i}", 32000, 99) for i in range(2000)] for j in range(10)]
        for number, shard in enumerate(shards):
            rows = [
                {"t_l9": rng.integers(0, 256, (99, 16), dtype=np.uint8)} for _ in shard
            ]
            st.write_shard(small / st.shard_name(number), "p", TARGETS, rows)
        st.write_manifest(small, {}, TARGETS, shards)
        store = st.TargetStore(small)
        order = [utt for shard in shards for utt, *_ in shard]
        for epoch in range(1, 4):
            rng.shuffle(order)
            for utt in order:
                store.read(utt, 32000)
            print(f"epoch {epoch}: {resident_mb():.1f} MB resident")


if __name__ == "__main__":
    main()
