"""What the padding of batches does to a teacher transducer's best paths.

    python benchmarks/path_padding.py exp/asr_x/paths exp/asr_x/paths_exact

compares two stores of mtkd_extract_paths, of the same model and data, made without
and with --exact.
"""

import argparse
from pathlib import Path

import numpy as np

from espnet_mtkd.targets.store import MANIFEST, TargetStore


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs=2, help="out_dir of both")
    parser.add_argument("--wav_scp", type=Path, default="dump/raw/train/wav.scp")
    args = parser.parse_args()
    padded, exact = (
        TargetStore(next(folder.glob(f"**/{MANIFEST}")).parent)
        for folder in args.stores
    )
    utts = [line.split()[0] for line in args.wav_scp.read_text().splitlines()]
    num_nodes = num_same = num_whole = 0
    differences = []
    for utt in utts:
        x, y = (s.read(utt, s.num_samples_of(utt) or 0) for s in (padded, exact))
        if x is None or y is None:
            continue  # without a path in one of them
        if x["nodes"].shape == y["nodes"].shape:
            is_same_N = (x["nodes"][:, :2] == y["nodes"][:, :2]).all(1)
            num_same += int(is_same_N.sum())
            num_whole += bool(is_same_N.all())
            first = (z["logp"][is_same_N, 0].astype(float) for z in (x, y))
            differences.append(np.abs(np.subtract(*first)))
        num_nodes += len(y["nodes"])
    difference_N = np.concatenate(differences)
    print(
        f"{len(utts)} utterances: the same path in {num_whole}, {num_same} of "
        f"{num_nodes} nodes; their first log-probability differs by "
        f"{difference_N.mean():.1e} on average, {difference_N.max():.1e} at most"
    )


if __name__ == "__main__":
    main()
