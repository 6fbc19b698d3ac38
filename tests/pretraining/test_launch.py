"""Errors of processes that ESPnet starts for GPUs arrive with message and exit code."""

import subprocess
import sys

import builders
import pytest
from espnet2.tasks.abs_task import AbsTask

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import DataError, TargetStoreError
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
        timeout=100,
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
