"""Two extracting processes against one, each with half of the cores.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/scale_out.py

Over `--wav_scp` repeated under other names; the codebooks are trained before, untimed.
Two times: that of the whole command, with imports and the teacher's loading, which is a
constant; and that of the extraction in the slower process, as the command's log has it.
The two processes are those of a job array; one of them writes the manifest.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def build_data_dir(folder: Path, wav_scp: Path, repeats: int) -> Path:
    """A Kaldi directory with every utterance `repeats` times."""
    from espnet_mtkd.data.kaldi import read_wav_scp

    folder.mkdir()
    lines = sorted(
        f"{utt}-{i} {Path(audio).resolve()}\n"
        for utt, audio in read_wav_scp(wav_scp).items()
        for i in range(repeats)
    )
    (folder / "wav.scp").write_text("".join(lines))
    return folder


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wav_scp", type=Path, default="dump/raw/train/wav.scp")
    parser.add_argument("--teachers", default="conf/teacher_whisper_base.yaml")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()

    from espnet_mtkd.data.audio import check_data_dir

    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // 2))

    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)

        def run(out_dir: Path, world_size: int, data_dir: Path) -> tuple[float, float]:
            command = [
                *(sys.executable, "-m", "espnet_mtkd.bin.mtkd_extract"),
                *("--teachers", args.teachers, "--data_dir", str(data_dir)),
                *("--shape_dir", tmp, "--out_dir", str(out_dir)),
                *("--world_size", str(world_size)),
            ]
            env = {**os.environ, "OMP_NUM_THREADS": threads, "LOCAL_WORLD_SIZE": "2"}
            start = time.perf_counter()
            jobs = [
                subprocess.Popen(
                    [*command, "--rank", str(rank)],
                    env=env,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for rank in range(world_size)
            ]
            logs = [job.communicate()[1] for job in jobs]
            seconds = time.perf_counter() - start
            if any(job.returncode for job in jobs):
                sys.exit("\n".join(["an extraction failed", *logs]))
            found = [float(re.search(r"of audio in (\d+) s", log)[1]) for log in logs]
            return seconds, max(found)

        once = build_data_dir(folder / "once", args.wav_scp, 1)
        run(folder / "first", 1, once)  # trains the codebooks
        data_dir = build_data_dir(folder / "data", args.wav_scp, args.repeats)
        check_data_dir(data_dir, data_dir / "speech_shape")  # untimed
        for name in ("one", "two"):
            for books in (folder / "first").glob("*/codebooks.*"):
                target = folder / name / books.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(books, target)
        one = run(folder / "one", 1, data_dir)
        two = run(folder / "two", 2, data_dir)
    print(f"one process, {threads} of {cores} cores; two processes, {threads} each")
    for what, a, b in zip(("command", "extraction"), one, two, strict=True):
        print(f"{what:10} {a:.1f} s and {b:.1f} s: {a / b:.2f} x as fast")


if __name__ == "__main__":
    main()
