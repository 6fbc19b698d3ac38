"""ladder.sh on a recipe of stubs: what runs once, beside what, and what is told."""

import os
import re
import signal
import subprocess
import time

import builders
import pytest
import stub_recipe
from stub_recipe import calls, extractions

from espnet_mtkd.ladder.jobs import Job
from espnet_mtkd.ladder.progress import Running

ROWS = "scratch teachers kd unlabelled pseudo"


@pytest.fixture
def recipe(tmp_path):
    """Without the teacher transducer; two teachers."""
    recipe = stub_recipe.build(tmp_path)
    for path in recipe.glob("exp/asr_*/*"):
        path.unlink()
    teachers = [dict(name=x, upstream=f"whisper_{x}") for x in ("tiny", "base")]
    builders.write_yaml(recipe / "conf/teachers.yaml", teachers)
    return recipe


def command(**options) -> list[str]:
    options = {**stub_recipe.OPTIONS, "encoders": "conformer", **options}
    if options.get("num_threads") is None:
        options.pop("num_threads", None)
    return ["./ladder.sh", *(x for k, v in options.items() for x in (f"--{k}", v))]


def ladder(recipe, env=None, **options) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(builders.ROOT), **(env or {})}
    return builders.run_group(command(**options), recipe, env)


def trainings(lines: list[str]) -> list[str]:
    """Directories that are trained, in the order that the trainings begin."""
    found = []
    for line in lines:
        if line.startswith("asr 11"):
            found.append(line.partition("exp=exp/")[2].split()[0])
        elif "mtkd_train" in line:
            found.append(re.search(r"--output_dir exp/(\S+)", line)[1])
    return found


EXPECTED = [
    *("asr_teacher", "asr_conformer_scratch", "mtkd_conformer_teachers_stored"),
    *("asr_conformer_teachers_stored/head", "asr_conformer_teachers_stored"),
    *("asr_conformer_teachers_kd/head", "asr_conformer_teachers_kd"),
    "mtkd_conformer_teachers_unlabelled",
    *("asr_conformer_teachers_unlabelled/head", "asr_conformer_teachers_unlabelled"),
    *("asr_conformer_teachers_pseudo/head", "asr_conformer_teachers_pseudo"),
]


def report_words(lines: list[str]) -> str:
    return [x for x in lines if "mtkd_report" in x][-1]


def test_rows_beside_each_other_do_what_rows_after_each_other_do(recipe, tmp_path):
    other = stub_recipe.build(tmp_path / "other")
    for path in other.glob("exp/asr_*/*"):
        path.unlink()
    (other / "conf/teachers.yaml").write_text(
        (recipe / "conf/teachers.yaml").read_text()
    )
    options = dict(rows=ROWS, unlabelled_sets="data/es")
    one = ladder(other, jobs="1", **options)
    assert one.returncode == 0, one.stdout[-3000:]
    two = ladder(recipe, env={"STUB_SLEEP": "1"}, jobs="2", **options)
    logs = list((recipe / "exp/log_ladder").iterdir())
    text = "".join(x.read_text() for x in logs)
    assert two.returncode == 0, two.stdout[-3000:] + text[-3000:]
    assert "refuse" not in text and "end it, or give this" not in text
    found = calls(recipe), calls(other)
    assert trainings(found[1]) == EXPECTED
    assert sorted(trainings(found[0])) == sorted(EXPECTED)  # each once
    for name in ("asr 10", "mtkd_extract_paths", "mtkd_extract ", "asr 13"):
        numbers = [sum(name in x for x in lines) for lines in found]
        assert numbers[0] == numbers[1] > 0
    assert report_words(found[0]) == report_words(found[1])
    again = ladder(recipe, jobs="2", **options)
    assert again.returncode == 0
    assert trainings(calls(recipe)) == []
    # What one number of jobs has finished is finished for another.
    result = ladder(recipe, jobs="1", **options)
    numbers = re.findall(r"run_stage\) Stage (\d+): (.*)", result.stdout)
    assert len(numbers) > 40
    assert all(title.endswith(": finished before") for _, title in numbers)


def test_a_dry_run_changes_nothing(recipe):
    """Not even the pages of what is scored."""
    result = ladder(recipe, jobs="1", rows="scratch")
    assert result.returncode == 0, result.stdout[-3000:]
    (recipe / "exp/report.html").unlink(missing_ok=True)
    calls(recipe)

    def state():
        files = (x for x in (recipe / "exp").rglob("*") if x.is_file())
        return {x: x.stat().st_mtime_ns for x in files}

    before = state()
    result = ladder(recipe, rows="scratch teachers", dry_run="true")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "would run" in result.stdout
    assert not [x for x in calls(recipe) if "mtkd_report" in x]
    assert state() == before


def test_two_rows_train_at_the_same_time(recipe):
    """By the order of what begins: the stub's trainings take three seconds."""
    log = recipe / "exp/log_ladder/asr_conformer_scratch.log"
    running = Running(Job("scratch", "scratch", ()), log)
    result = ladder(
        recipe, env={"STUB_SLEEP": "3"}, rows="scratch teachers", num_threads=None
    )
    assert result.returncode == 0, result.stdout[-3000:]
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        assert "at a time" not in result.stdout
        return
    assert f"2 at a time, each with {max(1, cores // 2)} thread(s)" in result.stdout
    lines = result.stdout.splitlines()
    scratch = [i for i, x in enumerate(lines) if "conformer: from scratch" in x]
    stage_1 = [i for i, x in enumerate(lines) if "stage 1, conformer: all" in x]
    assert stage_1[0] < scratch[-1]  # it began before that one was finished
    first = log.read_text().splitlines()[0]
    assert f"--num_threads {max(1, cores // 2)} " in first + " "
    assert running.state() == "stage 13, scoring"


def test_rows_of_the_users_own_share_stage_1_and_are_compared(recipe):
    rows = [
        dict(name="gentle", adds_to="teachers", options="--finetune_args '--lr 1'"),
        dict(name="other", adds_to="gentle", options=dict(mtkd_args="--x 1")),
    ]
    builders.write_yaml(recipe / "conf/rows.yaml", rows)
    result = ladder(recipe, jobs="2", rows="teachers all", rows_config="conf/rows.yaml")
    assert result.returncode == 0, result.stdout[-3000:]
    lines = calls(recipe)
    assert sorted(x for x in trainings(lines) if "/head" not in x) == [
        "asr_conformer_teachers_stored",
        "asr_conformer_teachers_stored_gentle",
        "asr_conformer_teachers_stored_gentle_other",
        "mtkd_conformer_teachers_stored",
        "mtkd_conformer_teachers_stored_gentle_other",
    ]
    report = report_words(lines)
    assert "--compare conformer: gentle conformer: all teachers " in report
    assert "--compare conformer: other conformer: gentle " in report


def test_each_teacher_is_left_out(recipe):
    result = ladder(recipe, jobs="2", rows="teachers loo")
    assert result.returncode == 0, result.stdout[-3000:]
    lines = calls(recipe)
    folders = {re.search(r"--out_dir (\S+)", x)[1] for x in extractions(lines)}
    assert folders == {"exp/mtkd_targets"}
    for name in ("tiny", "base"):
        assert f"asr_conformer_teachers_without_{name}" in trainings(lines)
        pair = f"--compare conformer: all teachers conformer: without {name} "
        assert pair in report_words(lines)


def test_a_row_that_fails_is_named_and_the_others_are_finished(recipe):
    text = (recipe / "asr.sh").read_text()
    fault = (
        'case "${o_stage}:${o_asr_exp}" in 11:*scratch) echo no luck; exit 4 ;; esac'
    )
    (recipe / "asr.sh").write_text(text.replace("case ", f"{fault}\ncase ", 1))
    result = ladder(recipe, jobs="2", rows="scratch teachers", note="A note.")
    assert result.returncode == 4
    assert "failed (exit code 4): conformer: from scratch, seed 0" in result.stdout
    assert "no luck" in result.stdout
    assert "Not finished: conformer: from scratch, seed 0" in result.stdout
    report = report_words(calls(recipe))
    assert "--rows conformer: all teachers=exp/asr_conformer_teachers_stored" in report
    assert "A note. Rows not finished: conformer: from scratch." in report
    # After each other, the first that fails is the end.
    (recipe / "exp/asr_conformer_scratch").exists()
    result = ladder(recipe, jobs="1", rows="scratch teachers", expdir="exp2")
    assert result.returncode == 4 and "all teachers" not in result.stdout


def test_what_needs_a_stage_1_that_failed_is_left_out(recipe):
    python = recipe / "bin/python3"
    text = python.read_text()
    fault = 'case "$*" in *mtkd_train*) exit 3 ;; esac\n'
    python.write_text(text.replace("next=\n", f"{fault}next=\n", 1))
    result = ladder(recipe, jobs="2", rows="teachers kd scratch")
    assert result.returncode == 3
    for title in ("all teachers", "+ path KD"):
        assert f"left out: conformer: {title}, seed 0, for this failed: stage 1" in (
            result.stdout
        )
    assert "asr_conformer_scratch" in trainings(calls(recipe))


def test_on_gpus_each_row_has_its_own(recipe):
    python = recipe / "bin/python3"
    text = python.read_text()
    told = 'echo "gpus ${CUDA_VISIBLE_DEVICES} $*" >> calls\n'
    text = text.replace("next=\n", f"{told}next=\n", 1)
    count = "    *device_count*) echo 1; exit ;;\n    *mtkd_preflight*"
    python.write_text(text.replace("    *mtkd_preflight*", count, 1))
    options = dict(ngpu="1", num_threads=None, rows="teachers", seeds="0 1 2")
    env = {"CUDA_VISIBLE_DEVICES": "5,7", "STUB_SLEEP": "2"}
    result = ladder(recipe, env=env, jobs="2", **options)
    assert result.returncode == 0, result.stdout[-3000:]
    lines = [x for x in calls(recipe) if x.startswith("gpus") and "mtkd_train" in x]
    assert {x.split()[1] for x in lines[:2]} == {"5", "7"}  # at the same time
    assert len(lines) == 3 and {x.split()[1] for x in lines} == {"5", "7"}
    result = ladder(recipe, env=env, jobs="3", **options)
    assert result.returncode == 2
    assert "expected 3 GPUs on this machine, found 2" in result.stdout


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_signal_to_the_ladder_ends_all_that_it_started(recipe, jobs):
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(builders.ROOT)}
    options = dict(rows="scratch teachers", jobs=jobs)
    with open(recipe / "log", "w") as log:
        process = subprocess.Popen(
            command(**options),
            cwd=recipe,
            env={**env, "STUB_SLEEP": "60"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            if len(trainings((recipe / "calls").read_text().splitlines())) == int(jobs):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert builders.session_of(process.pid) == []
    finally:
        builders.kill_session(process.pid)
    last = (recipe / "log").read_text().splitlines()[-1]
    assert "Ended by SIGTERM; run the same command again" in last
    calls(recipe)
    assert ladder(recipe, **options).returncode == 0
    found = trainings(calls(recipe))
    assert "asr_conformer_scratch" in found  # it goes on with what was ended


def test_the_plan_is_told_and_nothing_runs(recipe):
    result = ladder(recipe, rows="teachers loo", plan="true")
    assert result.returncode == 0 and calls(recipe) == []
    assert [x.split("\t")[1] for x in result.stdout.splitlines()] == [
        *("all teachers", "without tiny", "without base")
    ]
    assert not (recipe / "exp/teachers").exists()


@pytest.mark.parametrize("name", ["asterisk", "speechocean762"])
def test_a_recipes_plan_needs_no_download(tmp_path, name):
    recipe = builders.mirror_recipe(tmp_path, name)
    words = ["./run.sh", "--rows", "scratch unlabelled text", "--plan", "true"]
    env = {k: v for k, v in os.environ.items() if k != "MTKD_TEACHER_MIRROR"}
    env |= dict(PIP_INDEX_URL="http://127.0.0.1:9/", HTTPS_PROXY="http://127.0.0.1:9")
    result = builders.run_group(words, recipe, env)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "from scratch" in result.stdout and "transcripts" in result.stdout
    assert not list(recipe.glob("d*/*"))  # downloads, data, dump


@pytest.mark.parametrize("size", ["abc", "0", "nan", ""])
def test_a_size_of_the_report_that_means_nothing_is_refused_at_once(recipe, size):
    result = ladder(recipe, rows="scratch", report_mb=size)
    assert result.returncode == 2 and calls(recipe) == []
    assert f"--report_mb: expected a number above 0, found '{size}'" in result.stdout
