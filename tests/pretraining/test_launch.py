"""Errors of processes that ESPnet starts for GPUs arrive with message and exit code."""

import os
import signal
import subprocess
import sys
import time

import builders
import pytest
from espnet2.tasks.abs_task import AbsTask

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import DataError, DiskError, PreemptedError, TargetStoreError
from espnet_mtkd.pretraining.launch import SpawnedErrors, first_error, keep_error

# ESPnet's own launcher starts two processes; they fail where there is no GPU at all,
# before they would ask for one.
PROGRAM = """
import sys, time
from espnet2.tasks.abs_task import AbsTask
from espnet_mtkd.errors import DataError, report_errors
from espnet_mtkd.pretraining.launch import SpawnedErrors
from espnet_mtkd.pretraining.task import MTKDTask


class Worker(AbsTask):
    @classmethod
    def main_worker(cls, args):
        if args.local_rank == 1:
            raise {what}
        time.sleep(120)  # as if it waited for the other


class Task(SpawnedErrors, Worker):
    get_parser = MTKDTask.get_parser
    check_required_command_args = MTKDTask.check_required_command_args


if __name__ == "__main__":
    report_errors(lambda: Task.main(cmd=sys.argv[1:]))()
"""


def spawn(tmp_path, what: str) -> subprocess.CompletedProcess:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{what}", what))
    flags = ["--ngpu", "2", "--multiprocessing_distributed", "true"]
    flags += ["--teachers", "t.yaml", "--output_dir", str(tmp_path / "exp")]
    return subprocess.run(
        [sys.executable, program, *flags],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=builders.ROOT,
    )


def test_an_error_of_a_started_process_is_the_commands(tmp_path):
    result = spawn(tmp_path, 'DataError("utterance a: \\u00e9 is\\ntoo long")')
    assert result.returncode == 4
    assert "error: utterance a: \u00e9 is\ntoo long\nsee docs/" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failure_without_a_code_stays_one(tmp_path):
    result = spawn(tmp_path, 'KeyError("of a library")')
    assert result.returncode == 1 and "KeyError: 'of a library'" in result.stderr


# Both stages as they are, but for the devices: ESPnet starts a process for each GPU.
TRAINING = """
import os, signal, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook
from espnet_mtkd.errors import DataError, report_errors
from espnet_mtkd.pretraining.task import MTKDTask
from espnet_mtkd.transducer.task import MTKDASRTask

WORDS = sys.argv[4:]
Stage = {"1": MTKDTask, "2": MTKDASRTask}[sys.argv[1]]


class Task(Stage):
    @classmethod
    def main_worker(cls, args):
        args.ngpu = 0
        steps = []

        def end(*_):
            steps.append(0)
            if len(steps) < 2:
                return
            file = Path(sys.argv[2]) / str(args.dist_rank)
            file.with_suffix(".new").write_text(str(os.getpid()))
            file.with_suffix(".new").rename(file)
            exec(sys.argv[3].split("|")[args.dist_rank])

        register_optimizer_step_post_hook(end)
        super().main_worker(args)


if __name__ == "__main__":
    report_errors(lambda: Task.main(cmd=WORDS))()
"""
HANGS = "time.sleep(3600)"  # told to end, the trainer waits for the end of a step
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def train_in_two(tmp_path, words, stage: int, *what: str):
    """A training of two processes that do `what` after their second step."""
    program = tmp_path / "program.py"
    program.write_text(TRAINING)
    (tmp_path / "pids").mkdir()
    words = [str(x) for x in words]
    words[words.index("--ngpu") + 1] = "2"
    words += ["--multiprocessing_distributed", "true", "--dist_backend", "gloo"]
    own = [sys.executable, str(program), str(stage), str(tmp_path / "pids")]
    return subprocess.Popen(
        [*own, "|".join(what), *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=builders.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def nothing_is_left(leader: int) -> bool:
    """Python's tracker of resources ends a moment after whom it tracks."""
    for _ in range(200):
        if not builders.session_of(leader):
            return True
        time.sleep(0.1)
    return False


def ended(run, tmp_path, what) -> str:
    """What it has said, when nothing of it is left; within a minute of the death."""
    files = [tmp_path / f"pids/{i}" for i, x in enumerate(what) if x != "pass"]
    try:
        while not all(f.is_file() for f in files):
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.1)
        _, stderr = run.communicate(timeout=60)
        assert nothing_is_left(run.pid)
    finally:
        builders.kill_session(run.pid)
    return stderr


@pytest.mark.parametrize(
    "what, code, message",
    [
        ((HANGS, KILLED), 137, "process 1 of 2 was killed by signal 9 (Killed)"),
        ((KILLED, "pass"), 137, "process 0 of 2 was killed by signal 9 (Killed)"),
        (("pass", "os._exit(9)"), 9, "process 1 of 2 ended with exit code 9"),
        ((HANGS, 'raise DataError("utterance a")'), 4, "error: utterance a"),
    ],
)
def test_where_one_process_dies_all_end(
    stage1_command, two_teachers, tmp_path, what, code, message
):
    words = stage1_command(tmp_path / "exp", two_teachers)
    run = train_in_two(tmp_path, words, 1, *what)
    stderr = ended(run, tmp_path, what)
    assert run.returncode == code, stderr[-3000:]
    assert message in stderr


def test_in_stage_2_too(corpus, tmp_path):
    asr = builders.asr_config("conformer")
    words = ["--config", builders.write_yaml(tmp_path / "asr.yaml", asr)]
    for part in ("train", "valid"):
        flag, folder = f"--{part}_data_path_and_name_and_type", getattr(corpus, part)
        words += [flag, f"{folder}/wav.scp,speech,sound"]
        words += [flag, f"{folder}/text,text,text"]
        words += [f"--{part}_shape_file", folder / "speech_shape"]
    words += ["--token_list", corpus.tokens, "--token_type", "char", "--ngpu", "0"]
    words += ["--output_dir", tmp_path / "exp"]
    run = train_in_two(tmp_path, words, 2, HANGS, KILLED)
    stderr = ended(run, tmp_path, (HANGS, KILLED))
    assert run.returncode == 137, stderr[-3000:]
    assert "process 1 of 2 was killed by signal 9" in stderr


@pytest.mark.parametrize("to", [signal.SIGTERM, signal.SIGKILL])
def test_who_waits_is_not_outlived(stage1_command, two_teachers, tmp_path, to):
    """Told to end, all of them save; killed, it leaves nobody behind."""
    config = builders.mtkd_config(max_epoch=200, batch_bins=60000, keep_nbest_models=1)
    words = stage1_command(tmp_path / "exp", two_teachers, config=config)
    run = train_in_two(tmp_path, words, 1, "pass", "pass")
    pids = tmp_path / "pids"
    try:
        while len(list(pids.glob("[01]"))) < 2:
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.1)
        run.send_signal(to)
        _, stderr = run.communicate(timeout=60)  # its end is that of all who write
        assert nothing_is_left(run.pid)
    finally:
        builders.kill_session(run.pid)
    if to == signal.SIGTERM:
        assert run.returncode == 8, stderr[-3000:]
        assert "run the same command again to go on" in stderr
        assert (tmp_path / "exp/checkpoint.pth").is_file()


def test_one_that_was_told_to_end_is_not_the_cause(tmp_path):
    for number, error in enumerate((PreemptedError("saved"), DiskError("full"))):
        keep_error(tmp_path, error)
        (tmp_path / f"{os.getpid()}.json").rename(tmp_path / f"{number}.json")
    assert type(first_error(tmp_path)) is DiskError


def test_in_one_process_errors_are_raised_as_they_are():
    class Worker(AbsTask):
        @classmethod
        def main_worker(cls, args):
            raise args.error

    class Task(SpawnedErrors, Worker):
        pass

    from argparse import Namespace

    args = Namespace(ngpu=0, distributed=False, error=DataError("it"))
    with pytest.raises(DataError, match="it") as error:
        Task.main_worker(args)
    assert error.value is args.error


def test_the_first_error_is_told(tmp_path):
    assert first_error(tmp_path) is None
    keep_error(tmp_path, TargetStoreError("gone"))
    found = first_error(tmp_path)
    assert type(found) is TargetStoreError and str(found) == "gone"


def test_one_process_for_two_gpus_is_refused(
    stage1_command, two_teachers, tmp_path, capsys
):
    words = stage1_command(tmp_path / "exp", two_teachers)
    words[words.index("--ngpu") + 1] = "2"
    with pytest.raises(SystemExit) as end:
        main([*words, "--multiprocessing_distributed", "false"])
    assert end.value.code == 2
    assert "--multiprocessing_distributed true" in capsys.readouterr().err
