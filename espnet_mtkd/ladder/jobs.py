"""The runs of mtkd.sh for a plan: one a row, or split where rows share stages."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.ladder.options import given
from espnet_mtkd.ladder.plan import Plan, Row

DATA_STAGES = range(1, 9)  # up to the stored targets
PRETRAINING = 9
MOST_JOBS = 4  # that are chosen without --jobs: each takes some GB of memory


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of mtkd.sh.

    Attributes:
        name: of its log, unique.
        title: for messages.
        command: words.
        needs: names of jobs that have to end well before.
        alone: of the jobs with this word one runs at a time.
        result: name of the row in RESULTS.md and its directory, where it ends a row.
    """

    name: str
    title: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    alone: str = ""
    result: tuple[str, Path] | None = None


def choose_number(values: dict[str, str], passed: Sequence[str], num_rows: int) -> int:
    """How many jobs run beside each other: `--jobs`, or what the machine suggests.

    On the CPU two trainings of one thread use two cores better than one training of
    two. So without --jobs and --num_threads there are as many as cores and rows, at
    most `MOST_JOBS`. On a GPU one.

    Raises:
        ConfigError: `--jobs` is no number above 0.
    """
    text = values["jobs"]
    if text and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--jobs: expected a number above 0, found '{text}'")
    if given(passed, "dry_run") == "true" or given(passed, "stop_stage") == "0":
        return 1  # nothing is trained, and what is said is to be read
    if text:
        return int(text)
    if given(passed, "ngpu", "1") != "0" or given(passed, "num_threads"):
        return 1
    return max(1, min(_cores(), num_rows, MOST_JOBS))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def threads_of_each(passed: Sequence[str], num_jobs: int) -> int:
    """Threads of a training on the CPU beside others: an equal share."""
    text = given(passed, "num_threads")
    total = int(text) if text.isdecimal() else _cores()
    return max(1, total // num_jobs)


def devices_of_each(
    passed: Sequence[str], num_jobs: int, cuda_cmd: str, python: str
) -> list[str] | None:
    """CUDA_VISIBLE_DEVICES of each of the jobs beside each other.

    Args:
        passed: options of mtkd.sh; `--ngpu` is the number of GPUs of a job.
        num_jobs: beside each other.
        cuda_cmd: of cmd.sh: a scheduler gives out GPUs itself.
        python: that sees the GPUs, where nvidia-smi is not there.

    Returns:
        A list of `num_jobs`; None where nothing is to be set.

    Raises:
        ConfigError: too few GPUs.
    """
    ngpu = given(passed, "ngpu", "1")
    launcher = Path((cuda_cmd.split() or ["run.pl"])[0]).name
    if num_jobs == 1 or not ngpu.isdecimal() or int(ngpu) == 0:
        return None
    if launcher not in ("run.pl", "stdout.pl"):
        return None
    num = int(ngpu)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [x.strip() for x in visible.split(",") if x.strip()]
    else:
        found = [str(i) for i in range(_count_gpus(python))]
    if len(found) < num_jobs * num:
        raise ConfigError(
            f"--jobs {num_jobs} with --ngpu {num}: expected {num_jobs * num} GPUs on "
            f"this machine, found {len(found)}: give fewer jobs, or --ngpu 0 to train "
            "on the CPU"
        )
    return [",".join(found[i * num : (i + 1) * num]) for i in range(num_jobs)]


def _count_gpus(python: str) -> int:
    if shutil.which("nvidia-smi"):
        words = ["nvidia-smi", "-L"]
        text = subprocess.run(words, capture_output=True, text=True).stdout
        return sum(line.startswith("GPU") for line in text.splitlines())
    code = "import torch; print(torch.cuda.device_count())"
    words = [*python.split(), "-c", code]
    text = subprocess.run(words, capture_output=True, text=True).stdout
    last = (text.split() or ["0"])[-1]
    return int(last) if last.isdecimal() else 0


def _number(passed: Sequence[str], name: str, default: int) -> int:
    text = given(passed, name)
    return int(text) if text.isdecimal() else default  # (mtkd.sh refuses others)


class Jobs:
    """Makes the jobs of a plan.

    Args:
        plan: the rows.
        values: the ladder's options.
        passed: options of mtkd.sh, for every row.
    """

    def __init__(self, plan: Plan, values: dict[str, str], passed: Sequence[str]):
        self.plan, self.values, self.passed = plan, values, list(passed)

    def whole(self) -> list[Job]:
        """A job for each row, encoder and seed, all stages in it, in their order."""
        jobs = [self._teacher()] if self.plan.needs_teacher else []
        return jobs + [self._row(*x) for x in self._instances()]

    def split(self, num_threads: int) -> list[Job]:
        """Jobs that may run beside each other, none of which does what another does.

        Of each row: data and targets (stages 1 to 8), shared with all rows that have
        the same; the pre-training (stage 9), shared where it has one name; the rest.
        """
        start = _number(self.passed, "stage", 1)
        stop = _number(self.passed, "stop_stage", 10000)
        skipped = given(self.passed, "skip_stages").split()
        if given(self.passed, "ngpu", "1") == "0":
            self.passed += ["--num_threads", str(num_threads)]
        jobs: dict[str, Job] = {}
        data_jobs: dict[tuple, str] = {}

        def add(job: Job, stages, **changes) -> None:
            others = [n for n in range(1, stages[-1]) if n not in stages]
            words = " ".join([*skipped, *map(str, others)])
            words = [*job.command, "--skip_stages", words]
            if stages[-1] < 10:
                words += ["--stop_stage", str(min(stop, stages[-1]))]
            job = dataclasses.replace(job, command=tuple(words), **changes)
            if job.name not in jobs and start <= stages[-1] and stop >= stages[0]:
                jobs[job.name] = job

        def add_data(job: Job, key: tuple, title: str, needs=()) -> str:
            if key not in data_jobs:
                data_jobs[key] = f"data_{len(data_jobs) + 1}"
                changes = dict(name=data_jobs[key], title=f"data, {title}", needs=needs)
                add(job, DATA_STAGES, **changes, alone="data", result=None)
            return data_jobs[key]

        rest = [*range(PRETRAINING + 1, 16)]
        if self.plan.needs_teacher:
            job = self._teacher()
            data = add_data(job, ("teacher",), "teacher transducer")
            add(job, rest, needs=(data,))
        for encoder, row, seed in self._instances():
            whole = self._row(encoder, row, seed)
            part = self._only(row, self.plan.options.data, keep_frontend=True)
            key = (encoder, *sorted(part.options.items()))
            heard = ()
            if self.plan.hears_teacher(row):  # (its targets are stored with the data)
                heard = (self._teacher().name,)
            data = add_data(self._row(encoder, part, seed), key, whole.title, heard)
            needs = [data]
            if row.options.get("teachers", "none") != "none":
                part = self._only(row, self.plan.options.pretraining)
                job = self._row(encoder, part, seed)
                name = f"mtkd_{self._tag(encoder, row.mtkd_tag, seed)}"
                title = f"stage 1, {whole.title}"
                changes = dict(name=name, title=title, needs=(data,), result=None)
                add(job, [PRETRAINING], **changes)
                needs.append(name)
            if self.plan.learns_from_teacher(row):
                needs.append(self._teacher().name)
            add(whole, rest, needs=tuple(needs))
        return list(jobs.values())

    def why_one_at_a_time(self) -> str:
        """Why these rows cannot run beside each other; empty if they can.

        A row must not write anew what another one reads while it trains.
        """
        start = given(self.passed, "stage")
        if given(self.passed, "force") == "true":
            return "--force true does again what rows share"
        if start.isdecimal() and int(start) in (*DATA_STAGES, 11):
            return f"--stage {start} does again what rows share"
        front_ends, formats = set(), set()
        for encoder, row, _ in self._instances():
            default = f"conf/train_asr_{encoder}_transducer.yaml"
            path = Path(row.options.get("asr_config") or default)
            config = read_yaml(path) if path.is_file() else {}
            keys = ("frontend", "frontend_conf")
            words = row.options.get("asr_args", "")
            arguments = re.findall(r"--frontend\S*[= ]\S+", words)
            front_ends.add((repr([config.get(k) for k in keys]), *arguments))
            keys = ("train_set", "valid_set", "speed_perturb_factors", "dumpdir")
            formats.add(tuple(row.options.get(k) for k in keys))
        if len(front_ends) > 1:
            return (
                "the rows have different front ends, whose statistics lie in one place"
            )
        if len(formats) > 1:
            return (
                "the rows have different training sets or audio, which have files in "
                "common"
            )
        return ""

    def pairs(self) -> list[tuple[str, str]]:
        """Names in RESULTS.md of the rows that are compared."""
        return [
            (f"{encoder}: {row.title}", f"{encoder}: {other}")
            for encoder in self.plan.encoders
            for row in self.plan.rows
            for other in row.others
        ]

    def _instances(self):
        return [
            (encoder, row, seed)
            for encoder in self.plan.encoders
            for row in self.plan.rows
            for seed in self.plan.seeds
        ]

    def _only(self, row: Row, names: set[str], keep_frontend: bool = False) -> Row:
        """The row with these of its options alone."""
        options = {k: v for k, v in row.options.items() if k in names}
        arguments = row.options.get("asr_args", "")
        if keep_frontend and "--frontend" in arguments:
            options["asr_args"] = arguments  # stage 6 computes features
        return dataclasses.replace(row, options=options)

    def _tag(self, encoder: str, tag: str, seed: str) -> str:
        return f"{encoder}_{tag}" + ("" if seed == "0" else f"_seed{seed}")

    def _start(self) -> list[str]:
        expdir, python = (self.values[x] for x in ("expdir", "python"))
        return ["./mtkd.sh", "--expdir", expdir, "--python", python]

    def _row(self, encoder: str, row: Row, seed: str) -> Job:
        tag = self._tag(encoder, row.tag, seed)
        words = [x for k, v in row.options.items() for x in (f"--{k}", v)]
        words += ["--encoder", encoder, "--seed", seed]
        words += ["--mtkd_tag", self._tag(encoder, row.mtkd_tag, seed)]
        words += ["--asr_tag", tag, *self.passed]
        title = f"{encoder}: {row.title}"
        return Job(
            name=f"asr_{tag}",
            title=f"{title}, seed {seed}",
            command=(*self._start(), *words),
            result=(title, Path(self.values["expdir"]) / f"asr_{tag}"),
        )

    def _teacher(self) -> Job:
        tag = self.values["kd_teacher_tag"]
        words = ["--teachers", "none", "--asr_config", self.values["kd_teacher_config"]]
        words += ["--asr_tag", tag, "--asr_args", self.values["kd_teacher_args"]]
        return Job(
            name=f"asr_{tag}",
            title="teacher transducer",
            command=(*self._start(), *words, *self.passed),
            result=("teacher: teacher transducer", Path(self.plan.teacher_exp)),
        )
