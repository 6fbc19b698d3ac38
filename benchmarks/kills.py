"""SIGKILL at any time: does a training ever lose more than what is not saved yet?

    python benchmarks/kills.py --kills 50              # both stages, at random times
    python benchmarks/kills.py --kills 10 --writes     # 10 at each of the writes

Makes a tiny corpus and a tiny random teacher, trains once without a kill, then again
and again with one kill after the other, each followed by the same command, until the
training ends. A training is lost when the command does not go on, when more than the
last save is gone, when a file is not whole or a link leads nowhere, or when models and
links at the end are not those of the training without kills, to the last bit.

The trainings are forks of one process that has imported everything: a kill costs a
second and not a minute. Saves within an epoch are made after every step.
"""

import argparse
import contextlib
import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import builders  # noqa: E402

from espnet_mtkd.training.checkpoints import CHECKPOINT, PREVIOUS, read  # noqa: E402

WRITES = ("checkpoint", "previous", "epoch", "link", "average")
SEED = 5


def make_world(folder: Path) -> None:
    """A corpus, a teacher, and the configs of both stages."""
    for name, num, seed in (("train", 8, 1), ("valid", 3, 2)):
        builders.build_data_dir(folder / name, num, seed)
    builders.write_tokens(folder / "tokens.txt")
    builders.build_whisper(folder / "whisper")
    teacher = dict(
        name="w", upstream="whisper_local", path_or_url=str(folder / "whisper")
    )
    builders.write_yaml(folder / "teachers.yaml", [teacher])
    common = dict(max_epoch=3, keep_nbest_models=[1, 2], batch_bins=60000)
    builders.write_yaml(folder / "stage1.yaml", builders.mtkd_config(**common))
    asr = builders.asr_config("conformer", **common)
    builders.write_yaml(folder / "stage2.yaml", asr)


def command(world: Path, stage: int, out: Path) -> list[str]:
    """Arguments of the training."""
    words = ["--config", str(world / f"stage{stage}.yaml"), "--output_dir", str(out)]
    for name in ("train", "valid"):
        flag = f"--{name}_data_path_and_name_and_type"
        words += [flag, f"{world / name}/wav.scp,speech,sound"]
        if stage == 2:
            words += [flag, f"{world / name}/text,text,text"]
        words += [f"--{name}_shape_file", f"{world / name}/speech_shape"]
    if stage == 1:
        words += ["--student_config", str(world / "stage2.yaml")]
        words += ["--teachers", str(world / "teachers.yaml")]
    else:
        words += ["--token_list", str(world / "tokens.txt"), "--token_type", "char"]
    words += ["--ngpu", "0", "--seed", str(SEED), "--resume", "true"]
    return [*words, "--save_interval_minutes", "0.00001", "--use_tensorboard", "false"]


def train(stage: int, words: list[str]) -> None:
    """One training, in this process."""
    if stage == 1:
        from espnet_mtkd.pretraining.task import MTKDTask as Task
    else:
        from espnet_mtkd.transducer.task import MTKDASRTask as Task
    Task.main(cmd=words)


def train_until(stage: int, words: list[str], death: tuple | None) -> None:
    """One training, that dies at a write where `death` says which (`die_at`)."""
    if death is not None:
        die_at(*death)
    train(stage, words)


def kind_of(path) -> str:
    """Which of `WRITES` brings a file its name."""
    name = Path(path).name
    if name in (CHECKPOINT, PREVIOUS):
        return {CHECKPOINT: "checkpoint", PREVIOUS: "previous"}[name]
    if "ave_" in name and not name.endswith("ave_1best.pth"):
        return "average"
    return "epoch" if name.endswith("epoch.pth") else "link"


def die_at(kind: str, number: int, after: bool) -> None:
    """Let this process die at the `number`-th write of a kind."""
    replace, count = os.replace, [0]

    def counted(source, target, **kwargs):
        is_it = str(target).endswith(".pth") and kind_of(target) == kind
        count[0] += is_it
        dies = is_it and count[0] == number
        if not dies or after:
            replace(source, target, **kwargs)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted


def fork(run, log: Path) -> int:
    """Process id of a child that runs a function and ends."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(log, "ab", buffering=0) as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        run()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:  # to be read in the log
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ending(pid: int) -> int:
    """Exit code of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def end_or_kill(pid: int, seconds: float) -> int:
    """Exit code of a child that is killed after a time, if it has not ended."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return ending(pid)


def models(folder: Path) -> dict[str, object]:
    """Every model of a finished training, and where its links lead."""
    out = {}
    for path in sorted(folder.glob("*.pth")):
        if path.name not in (CHECKPOINT, PREVIOUS):
            out[path.name] = os.readlink(path) if path.is_symlink() else read(path)
    return out


def differences(found: dict, expected: dict) -> list[str]:
    """Names of what is missing, too much, or another one."""

    def same(a, b):
        if isinstance(a, str) or isinstance(b, str):
            return a == b
        return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

    names = sorted(found.keys() | expected.keys())
    return [
        n
        for n in names
        if n not in found or n not in expected or not same(found[n], expected[n])
    ]


def faults_after_kill(folder: Path, saved: tuple) -> list[str]:
    """What a kill must not leave: half files, fewer saved steps than before."""
    faults = []
    for path in folder.glob("*.pth"):
        if path.is_symlink() and not path.exists():
            faults.append(f"{path.name} leads nowhere")
        elif not path.is_symlink():
            try:
                read(path)
            except Exception as e:  # whatever it is, it is a fault
                faults.append(f"{path.name}: {e}")
    if position(folder) < saved:
        faults.append(f"saved up to {saved}, then {position(folder)}")
    return faults


def position(folder: Path) -> tuple[int, int]:
    """Finished epochs, and batches of the next, that a checkpoint holds."""
    if not (folder / CHECKPOINT).is_file():
        return 0, 0
    state = read(folder / CHECKPOINT)
    within = state.get("position") or {"num_batches": 0}
    return state["reporter"]["epoch"], within["num_batches"]


def run(stage: int, world: Path, kills: int, kinds, seed: int) -> int:
    """Kill as often as asked for; print the tally; number of trainings lost."""
    name = f"stage {stage}, {kinds or 'random times'}"
    whole = world / f"whole{stage}"
    start = time.monotonic()
    if not whole.exists():
        words = command(world, stage, whole)
        code = ending(fork(functools.partial(train, stage, words), LOG))
        if code:
            sys.exit(
                f"stage {stage}: the training without a kill ended with {code}: {LOG}"
            )
    seconds = time.monotonic() - start if kinds is None else 3600.0
    expected = models(whole)
    chance = random.Random(seed)
    done = lost = trainings = 0
    while done < kills:
        folder = world / f"killed{stage}"
        shutil.rmtree(folder, ignore_errors=True)
        trainings += 1
        faults, code = [], None
        while code != 0 and not faults:
            saved = position(folder)
            is_killed = done < kills
            after = chance.random() < 0.5
            number = 1 + chance.randrange(3)

            words = command(world, stage, folder)
            death = (kinds, number, after) if kinds and is_killed else None
            pid = fork(functools.partial(train_until, stage, words, death), LOG)
            limit = chance.uniform(0, seconds) if is_killed else 3600.0
            code = end_or_kill(pid, limit)
            done += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                faults.append(f"the command ended with {code}")
            faults += faults_after_kill(folder, saved)
        if not faults:
            faults = differences(models(folder), expected)
        if faults:
            lost += 1
            print(f"{name}: LOST: {'; '.join(faults)} (log: {LOG})", flush=True)
    print(
        f"{name}: {done} kills, {trainings} trainings, {trainings - lost} of them as "
        f"without a kill, {lost} lost",
        flush=True,
    )
    return lost


def main() -> None:
    """Parse and kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--writes", action="store_true", help="At each of the writes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import espnet_mtkd.pretraining.task
    import espnet_mtkd.transducer.task  # noqa: F401

    lost = 0
    with tempfile.TemporaryDirectory(prefix="kills_") as folder:
        make_world(Path(folder))
        for stage in args.stages:
            for kind in WRITES if args.writes else (None,):
                lost += run(stage, Path(folder), args.kills, kind, args.seed)
    sys.exit(1 if lost else 0)


LOG = Path(tempfile.gettempdir()) / "kills.log"

if __name__ == "__main__":
    main()
