"""Joint network and transducer loss, in slices against torchaudio's loss of all logits:
peak memory and time.

    python benchmarks/transducer_loss.py

Each side runs in a process of its own. Memory is the peak of the resident set over what
it was before the step (on a GPU: of the allocated memory); time is that of forward and
backward, the median of `--num_steps` after one to warm up. Lengths are all equal
(`--ragged`: drawn between half and whole), so nothing is won by cutting padding off.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time


def measure(method: str, args, queue) -> None:
    """Put (loss, seconds, bytes) of one method."""
    import torch
    import torchaudio
    from espnet2.asr_transducer.joint_network import JointNetwork
    from warprnnt_pytorch import RNNTLoss

    from espnet_mtkd.transducer.rnnt import sliced_transducer_loss

    torch.set_num_threads(args.num_threads)
    torch.manual_seed(0)
    B, T, U, V = args.batch_size, args.num_frames, args.num_labels, args.vocab_size
    device = torch.device(args.device)
    joint = JointNetwork(V, 256, 256, joint_space_size=256).to(device)
    h = torch.randn(B, T, 256, device=device, requires_grad=True)
    g = torch.randn(B, U + 1, 256, device=device, requires_grad=True)
    labels = torch.randint(1, V, (B, U), dtype=torch.int32, device=device)
    low = (T // 2, U // 2) if args.ragged else (T, U)
    frames = torch.randint(low[0], T + 1, (B,), dtype=torch.int32)
    num_labels = torch.randint(low[1], U + 1, (B,), dtype=torch.int32)
    frames[0], num_labels[0] = T, U
    frames, num_labels = frames.to(device), num_labels.to(device)
    criterion = RNNTLoss()

    def step(frames, num_labels, h, g, labels):
        if method == "sliced":
            loss = sliced_transducer_loss(
                joint, criterion, h, g, labels, frames, num_labels
            )
        else:
            logits = joint(h.unsqueeze(2), g.unsqueeze(1))
            loss = torchaudio.functional.rnnt_loss(
                logits, labels, frames, num_labels, blank=0
            )
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    # Libraries load and pools fill on a small batch.
    small = torch.tensor([4], dtype=torch.int32, device=device)
    step(small, small, h[:1, :4], g[:1, :5], labels[:1, :4])
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(args.num_steps + 1):
        start = time.perf_counter()
        loss = step(frames, num_labels, h, g, labels)
        times.append(time.perf_counter() - start)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put((loss, statistics.median(times[1:]), peak - before))


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_frames", type=int, default=250)
    parser.add_argument("--num_labels", type=int, default=60)
    parser.add_argument("--vocab_size", type=int, default=500)
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--num_steps", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    # What is freed goes back at once, so that the peak is what was alive together.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("spawn")
    found = {}
    for method in ("plain", "sliced"):
        queue = context.Queue()
        process = context.Process(target=measure, args=(method, args, queue))
        process.start()
        found[method] = queue.get()
        process.join()
        loss, seconds, num_bytes = found[method]
        print(f"{method:7} loss {loss:.6f}, {seconds:.3f} s, {num_bytes / 1e6:.0f} MB")
    (_, t0, m0), (_, t1, m1) = found["plain"], found["sliced"]
    print(f"sliced : plain = {t1 / t0:.2f} in time, {m1 / m0:.3f} in memory")


if __name__ == "__main__":
    main()
