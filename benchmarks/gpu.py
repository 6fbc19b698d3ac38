"""Does all of this work on a GPU, and how fast? A table in Markdown.

    benchmarks/gpu.sh                     # sets up first
    benchmarks/gpu.sh --device cpu        # the same in small

Each part runs in a process of its own, with a time limit: one that fails is a line of
the table, and the others go on. Students, teachers and audio are random: speeds, memory
and rounding are what is measured.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Seconds at most; on an H100 the sum is what counts: nine minutes.
PARTS = {
    "cases": 150,
    "precision": 90,
    "step": 120,
    "extraction": 90,
    "paths": 60,
    "loss": 60,
    "ddp": 60,
    "streaming": 60,
    "compile": 120,
}
SLOW_CPU = 3  # what a busy machine without a GPU is given more


def main():
    """Run the parts and print the table; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--only", default=" ".join(PARTS), help=f"parts: {' '.join(PARTS)}"
    )
    parser.add_argument("--out", type=Path, help="the table goes there too")
    args = parser.parse_args()
    names = args.only.split()
    unknown = sorted(set(names) - set(PARTS))
    if unknown or not names:
        parser.error(f"--only: expected {' '.join(PARTS)}, found {args.only!r}")

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible to PyTorch here: --device cpu is the small run")
    # What is written is seen at once, and an end by a signal ends the part that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start = time.monotonic()
    lines, num_failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows, is_whole = run_part(name, args.device, Path(folder))
            num_failed += not is_whole
            for row in rows:
                lines.append(f"| {name} | {row[0]} | {row[1]} |")
                print(lines[-1], file=sys.stderr, flush=True)
    minutes = (time.monotonic() - start) / 60
    table = "\n".join(
        [
            describe(torch, args.device, minutes),
            "",
            "| part | what | result |",
            "|---|---|---|",
            *lines,
        ]
    )
    print(table)
    if args.out:
        args.out.write_text(table + "\n", encoding="utf-8")
    sys.exit(1 if num_failed else 0)


def describe(torch, device: str, minutes: float) -> str:
    """Machine, versions and time in a line."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        name += f", {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    else:
        name = f"{os.cpu_count()} CPU cores, {platform.machine()}, one thread"
    return f"{name}; PyTorch {torch.__version__}; {minutes:.1f} minutes in all."


def run_part(name: str, device: str, folder: Path):
    """Rows (what, result) of a part, and whether it ran to its end.

    What it measured before it failed is kept: it writes a line of JSON a row.
    """
    out = folder / f"{name}.jsonl"
    command = [sys.executable, ROOT / "benchmarks/gpu_parts.py", name, device, folder]
    limit = PARTS[name] * (SLOW_CPU if device == "cpu" else 1)
    begin = time.monotonic()
    with open(folder / f"{name}.log", "w+") as log:
        child = subprocess.Popen(
            [*map(str, command), str(out)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ},
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = f"not finished within {limit} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        log.seek(0)
        said = log.read().splitlines()
    rows = []
    if out.exists():
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    if code != 0:
        reason = code if isinstance(code, str) else f"exit code {code}"
        last = next((x for x in reversed(said) if x.strip()), "")[:200]
        rows.append(("**failed**", f"{reason}: {last}".replace("|", "/")))
        print("\n".join(said[-40:]), file=sys.stderr, flush=True)
    rows.append(("time", f"{time.monotonic() - begin:.0f} s"))
    return rows, code == 0


if __name__ == "__main__":
    main()
