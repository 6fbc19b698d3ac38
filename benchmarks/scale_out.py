"""Two extracting processes against one, each with half of the cores.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/scale_out.py

Wall time of the whole command, imports and the teacher's loading included, over
`--wav_scp` repeated under other names; the codebooks are trained before, untimed. The
two processes are those of a job array; one of them writes the manifest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def build_data_dir(folder: Path, wav_scp: Path, repeats: int) -> Path:
    """A Kaldi directory with every utterance `repeats` times."""
    from espnet_mtkd.audio import read_wav_scp

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
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // 2))

    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        data_dir = build_data_dir(folder / "data", args.wav_scp, args.repeats)

        def run(out_dir: Path, world_size: int) -> float:
            command = [
                *(sys.executable, "-m", "espnet_mtkd.bin.mtkd_extract"),
                *("--teachers", args.teachers, "--data_dir", str(data_dir)),
                *("--shape_dir", tmp, "--out_dir", str(out_dir)),
                *("--world_size", str(world_size)),
            ]
            env = {**os.environ, "OMP_NUM_THREADS": threads, "LOCAL_WORLD_SIZE": "2"}
            start = time.perf_counter()
            jobs = [
                subprocess.Popen([*command, "--rank", str(rank)], env=env)
                for rank in range(world_size)
            ]
            if any([job.wait() for job in jobs]):
                sys.exit("an extraction failed")
            return time.perf_counter() - start

        run(folder / "first", 1)  # checks the audio, trains the codebooks
        for name in ("one", "two"):
            for books in (folder / "first").glob("*/codebooks.*"):
                target = folder / name / books.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(books, target)
        one = run(folder / "one", 1)
        two = run(folder / "two", 2)
    print(f"one process, {threads} of {cores} cores: {one:.1f} s")
    print(f"two processes, {threads} each: {two:.1f} s, {one / two:.2f} x as fast")


if __name__ == "__main__":
    main()
