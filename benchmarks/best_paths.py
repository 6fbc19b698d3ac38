"""Best paths of a batch against one lattice after another, and the arithmetic beneath.

    python benchmarks/best_paths.py

Both sides begin with the outputs of encoder and prediction network and end with what is
stored of an utterance, for T = 250 frames, U = 60 labels, V tokens and random weights.
`one by one` is the plain way: logits of the whole lattice, their log-softmax, a loop
over the frames of one utterance. `joint` is the joint network over all nodes alone,
which neither can do without. All in turn in one process, the best of `--num_rounds`, in
seconds of this process's CPU time, which other programs on the machine change least.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from plain_path import plain_nodes  # noqa: E402

BATCH, T, U = 8, 250, 60
NUM_TOKENS = 8
BLANK = 0


def one_by_one(joint, hs, gs, labels):
    """Nodes and log-probabilities, an utterance at a time."""
    out = [
        plain_nodes(joint, *x, BLANK, NUM_TOKENS)
        for x in zip(hs, gs, labels, strict=True)
    ]
    nodes, logp = (torch.cat(parts) for parts in zip(*out, strict=True))
    return nodes, logp


def joint_alone(joint, hs, gs, limit: int):
    """The joint network over all nodes, in slices of a cache's size."""
    for h_TD, g_UD in zip(hs, gs, strict=True):
        size = max(1, limit // (len(g_UD) * joint.lin_out.out_features))
        for part_TD in h_TD.split(size):
            joint(part_TD[:, None], g_UD[None])


def best_seconds(functions, num_rounds: int) -> list[float]:
    """Least CPU time of each function, called in turn."""
    times = [[] for _ in functions]
    for _ in range(num_rounds + 1):
        for function, row in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            row.append(time.process_time() - start)
    return [min(row[1:]) for row in times]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--joint_size", type=int, default=128)
    parser.add_argument("--vocab_sizes", type=int, nargs="+", default=[500, 5000])
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)

    for V in args.vocab_sizes:
        compare(V, args.joint_size, args.num_rounds)


def compare(V: int, joint_size: int, num_rounds: int) -> None:
    """Print a line for V tokens."""
    from espnet2.asr_transducer.joint_network import JointNetwork

    from espnet_mtkd.transducer.lattice_paths import CPU_LOGITS, path_nodes

    torch.manual_seed(0)
    joint = JointNetwork(V, 128, 128, joint_space_size=joint_size).eval()
    hs = [torch.randn(T, 128) for _ in range(BATCH)]
    gs = [torch.randn(U + 1, 128) for _ in range(BATCH)]
    labels = [torch.randint(1, V, (U,)) for _ in range(BATCH)]
    with torch.inference_mode():
        expected = one_by_one(joint, hs, gs, labels)
        found = path_nodes(joint, hs, gs, labels, BLANK, NUM_TOKENS)
        is_same = torch.equal(found[0][:, :2], expected[0][:, :2])
        plain, ours, floor = best_seconds(
            [
                lambda: one_by_one(joint, hs, gs, labels),
                lambda: path_nodes(joint, hs, gs, labels, BLANK, NUM_TOKENS),
                lambda: joint_alone(joint, hs, gs, CPU_LOGITS),
            ],
            num_rounds,
        )
    plain, ours, floor = (1e3 * x / BATCH for x in (plain, ours, floor))
    flop = 2e-9 * T * (U + 1) * V * joint_size
    print(
        f"V {V}: one by one {plain:.1f} ms an utterance, batch {ours:.1f} ms: "
        f"{plain / ours:.2f} x as fast; joint network alone ({flop:.2f} GFLOP) "
        f"{floor:.1f} ms; paths {'the same' if is_same else 'NOT the same'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
