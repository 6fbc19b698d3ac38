"""What mtkd.sh shows while a step runs, and what --dry_run expects of the next run."""

import os
import pty
import re
import subprocess

import builders
import pytest
import stub_recipe
from stub_recipe import run

STAGES = builders.ROOT / "egs2/TEMPLATE/mtkd1/stages.sh"
# As ESPnet's trainer logs them.
EPOCH = "[vm] 2026-01-02 03:04:05,678 (trainer:322) INFO: "
BATCH = "[vm] 2026-01-02 03:04:05,678 (trainer:810) INFO: "
LOG = [
    f"{EPOCH}1/12epoch started",
    f"{BATCH}1epoch:train:1-20batch: iter_time=0.015, loss=113.995",
    f"{EPOCH}5/12epoch started. Estimated time to finish: "
    "1 hour, 3 minutes and 31.96 seconds",
    f"{BATCH}5epoch:train:21-40batch: iter_time=0.015, loss=113.995",
]


def script(body: str) -> list[str]:
    return ["bash", "-euc", f". {STAGES}; num_threads=1; expdir=exp; {body}"]


def output(body: str, folder) -> list[str]:
    """Of a step that is no terminal's; a line a second."""
    env = {**os.environ, "MTKD_PROGRESS_S": "1"}
    found = subprocess.run(
        script(body), cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_epoch_batch_and_time_left(tmp_path):
    (tmp_path / "new").write_text("\n".join(LOG) + "\n")
    found = output(
        "with_progress train.log bash -c 'cp new train.log; sleep 2.5'", tmp_path
    )
    assert found == ["    epoch 5/12, batch 40, about 1 hour, 3 minutes left"]


def test_a_log_of_an_earlier_run_is_not_shown(tmp_path):
    (tmp_path / "train.log").write_text("\n".join(LOG) + "\n")
    os.utime(tmp_path / "train.log", (1, 1))
    assert output("with_progress train.log sleep 2.5", tmp_path) == []


def test_utterances_that_are_decoded(tmp_path):
    found = output(
        "with_count 8 'best hypo' '*.log' bash -c '"
        "sleep 1.5; for i in 1 2; do echo best hypo: X >> a.log; done; sleep 3'",
        tmp_path,
    )
    assert found and all(
        re.fullmatch(r"    2 of 8 utterances, about \d+ s left", x) for x in found
    )
    seconds = [int(re.findall(r"about (\d+)", x)[0]) for x in found]
    assert 3 <= seconds[0] <= 30  # 2 took at least 1 s: 6 take three times as long


def test_a_progress_bar_is_its_last_state(tmp_path):
    found = output(
        r"""with_last_line a.log bash -c 'printf "10%%\r55%%" > a.log; sleep 2.5'""",
        tmp_path,
    )
    assert found == ["    55%"]


@pytest.mark.parametrize("code", [0, 7])
def test_the_steps_exit_code_stays(tmp_path, code):
    body = f"status=0; with_last_line a.log bash -c 'exit {code}' || status=$?"
    assert output(f"{body}; echo ${{status}}", tmp_path) == [str(code)]


def test_a_terminal_has_one_line_that_changes_and_goes(tmp_path):
    shown = []

    def read(fd):
        shown.append(os.read(fd, 1024))
        return shown[-1]

    words = script(
        "with_last_line a.log bash -c 'echo one > a.log; sleep 2.5; echo two > a.log; "
        "sleep 2.5'; echo end"
    )
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert pty.spawn(words, read) == 0
    finally:
        os.chdir(here)
    text = b"".join(shown).decode()
    clear = "\r\x1b[K"
    for line in ("one", "two"):
        assert f"{clear}    {line}\r" in text
    assert text.split(clear)[-1].strip() == "end"
    assert text.count("\n") == 1


def test_the_plan_says_what_was_measured_before(tmp_path):
    """Times and sizes of the plan, against stage_times.tsv and the files themselves."""
    recipe = stub_recipe.build(tmp_path)
    first = run(recipe, asr_tag="a", teachers="none", dry_run="true")
    assert "Not measured yet: stages 1 3 4 5 6 11 12 13" in first.stdout
    assert "In all about" not in first.stdout
    assert run(recipe, asr_tag="a", teachers="none").returncode == 0
    times = recipe / "exp/stage_times.tsv"
    lines = [x.split("\t") for x in times.read_text().splitlines()]
    seconds = dict(zip(range(len(lines)), (7200, 30, 400), strict=False))
    for i, line in enumerate(lines):
        line[3] = str(seconds.get(i, 1))
    times.write_text("".join("\t".join(x) + "\n" for x in lines))
    (recipe / "exp/asr_a/big").write_bytes(b"x" * (5 << 20))
    result = run(recipe, asr_tag="a", teachers="none", force="true", dry_run="true")
    total = sum(int(x[3]) for x in lines)
    assert f"In all about {total / 3600:.1f} h and " in result.stdout
    megabytes = int(re.search(r"h and (\d+) MB, as it was", result.stdout)[1])
    assert 5 <= megabytes < 10 * len(lines)
    assert "would run: --force true; took 2.0 h before" in result.stdout
    (line,) = [x for x in result.stdout.splitlines() if "transducer training" in x]
    assert re.search(r"took 1 s before, [5-6] MB$", line)
    assert "Not measured yet" not in result.stdout
    # Another experiment takes as long as this one.
    result = run(recipe, asr_tag="b", teachers="none", dry_run="true")
    assert "-> exp/asr_b: would run: not finished yet; took 1 s before" in result.stdout


def test_nothing_is_left_that_holds_the_output(tmp_path):
    """Of `mtkd.sh | tee log`, say: it ends when the step does."""
    env = {**os.environ, "MTKD_PROGRESS_S": "1000"}
    body = "tell() { echo x; }; watched tell sleep 0.2; echo done"
    found = subprocess.run(
        script(body), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert found.stdout == "done\n"
