"""What mtkd.sh shows while a step runs, and what --dry_run expects of the next run."""

import os
import pty
import re
import subprocess

import builders
import pytest
import stub_recipe
from stub_recipe import run

from espnet_mtkd.results.report import read_times

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


# Sets the clock of `date`, then a log; and waits until both have been looked at.
STEPS = """
polls() { grep -c . polls || true; }
step() {  # <seconds> <lines>
    echo "$1" > clock.new
    mv clock.new clock
    for ((i = 0; i < $2; i++)); do echo "best hypo: X"; done >> a.log
    local before=$(polls)
    until [ "$(polls)" -ge $((before + 2)) ]; do sleep 0.1; done
}
"""


def counted(total: int, steps: str, folder) -> list[str]:
    (folder / "steps.sh").write_text(STEPS + steps)
    (folder / "clock").write_text("1000\n")
    (folder / "polls").touch()
    clock = "date() { echo x >> polls; cat clock; }"
    return output(
        f"{clock}; with_count {total} 'best hypo' '*.log' bash -eu steps.sh", folder
    )


def test_time_left_is_by_the_rate_since_the_first_utterance(tmp_path):
    """Not by that since the beginning, when the model was loaded."""
    found = counted(97, "step 1060 1; step 1066 9; step 1069 9", tmp_path)
    assert found == [
        "    1 of 97 utterances",
        "    10 of 97 utterances, about 58 s left",  # 87 at 9 in 6 s
        "    19 of 97 utterances, about 39 s left",  # 78 at 18 in 9 s
    ]


def test_logs_of_other_decodings_are_not_counted(tmp_path):
    (tmp_path / "old.log").write_text("best hypo: X\n" * 50)
    os.utime(tmp_path / "old.log", (1, 1))
    found = counted(8, "step 1005 2", tmp_path)
    assert found == ["    2 of 8 utterances"]


def test_more_lines_than_utterances_or_a_clock_set_back_leave_no_nonsense(tmp_path):
    found = counted(8, "step 1060 2; step 1050 2; step 1064 9", tmp_path)
    assert found == [
        "    2 of 8 utterances",
        "    4 of 8 utterances, about 0 s left",
        "    8 of 8 utterances, about 0 s left",
    ]


def test_statistics_and_both_decodings_are_counted(tmp_path):
    recipe = stub_recipe.build(tmp_path)
    stats, decoded = "${o_asr_stats_dir}/logdir/stats.1", "exp/asr_a/${o_inference_tag}"
    hypothesis = "echo best hypo: X > %s; sleep 4"
    faults = {
        "asr.sh": f"""case ${{o_stage}} in
            10)
                mkdir -p {stats}/train {stats}/valid
                for i in 1 2; do echo u 3 >> {stats}/train/speech_shape; done
                echo u 3 >> {stats}/valid/speech_shape
                sleep 4 ;;
            12)
                mkdir -p {decoded}/test/logdir
                {hypothesis % f"{decoded}/test/logdir/asr_inference.1.log"} ;;
        esac
        """,
        "bin/python3": """case "$*" in
            *mtkd_asr_stream*)
                echo u ONE > exp/asr_a/decode_stream/test/text
                sleep 4 ;;
        esac
        """,
    }
    for name, before in (("asr.sh", "case ${o_stage}"), ("bin/python3", "next=\n")):
        text = (recipe / name).read_text()
        (recipe / name).write_text(text.replace(before, faults[name] + before, 1))
    options = dict(asr_tag="a", teachers="none", encoder="contextual_block_conformer")
    result = run(recipe, env={"MTKD_PROGRESS_S": "1"}, **options)
    assert result.returncode == 0, result.stdout[-2000:]
    found = re.findall(
        r"Stage (\d+): ([\w ]+)|^    (\d of \d utterances)$", result.stdout, re.M
    )
    stage, told = None, {}
    for number, what, state in found:
        stage = (number, what) if number else stage
        if state:
            told[stage] = state
    assert told == {
        ("6", "lengths and feature statistics"): "3 of 4 utterances",
        ("12", "decoding"): "1 of 2 utterances",
        ("12", "streaming decoding"): "1 of 2 utterances",
    }


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


def in_terminal(body: str, folder) -> str:
    """What a step shows in a terminal."""
    shown = []

    def read(fd):
        shown.append(os.read(fd, 1024))
        return shown[-1]

    here = os.getcwd()
    os.chdir(folder)
    try:
        assert pty.spawn(script(body), read) == 0
    finally:
        os.chdir(here)
    return b"".join(shown).decode()


def test_a_terminal_has_one_line_that_changes_and_goes(tmp_path):
    text = in_terminal(
        "with_last_line a.log bash -c 'echo one > a.log; sleep 2.5; echo two > a.log; "
        "sleep 2.5'; echo end",
        tmp_path,
    )
    clear = "\r\x1b[K"
    for line in ("one", "two"):
        assert f"{clear}    {line}\r" in text
    assert text.split(clear)[-1].strip() == "end"
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    "size, width", [("cols 120", 115), ("cols 40", 35), ("cols 0 rows 0", 75)]
)
def test_a_line_is_cut_to_the_width_of_the_terminal(tmp_path, size, width):
    """As in a recipe, where standard input is not the terminal."""
    (tmp_path / "line").write_text("x" * 150)
    body = "with_last_line a.log bash -c 'cp line a.log; sleep 4.5' < /dev/null"
    text = in_terminal(f"stty {size}; {body}", tmp_path)
    assert f"    {'x' * width}\r" in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recipe from scratch that has run; its lines of stage_times.tsv, with times."""
    recipe = stub_recipe.build(tmp_path_factory.mktemp("stub"))
    first = run(recipe, asr_tag="a", teachers="none", dry_run="true")
    assert "Not measured yet: stages 1 3 4 5 6 11 12 13" in first.stdout
    assert "easured before" not in first.stdout
    assert run(recipe, asr_tag="a", teachers="none").returncode == 0
    path = recipe / "exp/stage_times.tsv"
    lines = [x.split("\t") for x in path.read_text().splitlines()]
    seconds = dict(zip(range(len(lines)), (7200, 30, 400), strict=False))
    for i, line in enumerate(lines):
        line[3] = str(seconds.get(i, 1))
    path.write_text("".join("\t".join(x) + "\n" for x in lines))
    (recipe / "exp/asr_a/big").write_bytes(b"x" * (5 << 20))
    (recipe / "dump/raw/big").write_bytes(b"x" * (10 << 20))
    return recipe, lines


def test_the_plan_says_what_was_measured_before(finished):
    """Times and sizes of the plan, against stage_times.tsv and the files themselves."""
    recipe, lines = finished
    result = run(recipe, asr_tag="a", teachers="none", force="true", dry_run="true")
    total = sum(int(x[3]) for x in lines)
    assert f"In all about {total / 3600:.1f} h and " in result.stdout
    assert "would run: --force true; took 2.0 h before" in result.stdout
    (line,) = [x for x in result.stdout.splitlines() if "transducer training" in x]
    assert re.search(r"took 1 s before, [5-6] MB$", line)
    assert "ot measured yet" not in result.stdout
    # Another experiment takes as long as this one.
    result = run(recipe, asr_tag="b", teachers="none", dry_run="true")
    assert "-> exp/asr_b: would run: not finished yet; took 1 s before" in result.stdout


def test_each_folder_is_counted_once(finished):
    """dump/raw is the result of four stages."""
    recipe, lines = finished
    assert sum(x[2].endswith(" dump/raw") for x in lines) == 4
    result = run(recipe, asr_tag="a", teachers="none", force="true", dry_run="true")
    assert int(re.search(r"(\d+) MB, as it was", result.stdout)[1]) in (15, 16)
    assert len(re.findall(r" -> dump/raw: .*, 1[01] MB$", result.stdout, re.M)) == 1


def test_the_sum_is_not_of_stages_that_were_never_measured(finished):
    recipe, _ = finished
    result = run(recipe, asr_tag="a", force="true", dry_run="true")
    (line,) = [x for x in result.stdout.splitlines() if "easured before" in x]
    assert re.search(
        r"Measured before: about \d.* and \d+ MB; not measured yet: stages 7 9 10$",
        line,
    )
    assert "In all" not in result.stdout


def test_a_last_line_that_was_cut_off_is_ignored_and_replaced(finished):
    recipe, lines = finished
    path = recipe / "exp/stage_times.tsv"
    whole = path.read_text()
    for torn in ("asr_a\t11\ttransd", "asr_a\t11\ttransducer training: x\t7"):
        path.write_text(whole + torn)
        result = run(recipe, asr_tag="a", teachers="none", force="true", dry_run="true")
        assert "integer" not in result.stdout and "took 1 s before" in result.stdout
        assert "took 7 s" not in result.stdout
        found = list(read_times(path))
        assert [list(map(str, x)) for x in found] == lines
    assert run(recipe, asr_tag="a", teachers="none", stage="13").returncode == 0
    added = path.read_text().removeprefix(whole)
    assert re.fullmatch(r"asr_a\t13\tscoring: .*\t\d+\n", added)


def test_nothing_is_left_that_holds_the_output(tmp_path):
    """Of `mtkd.sh | tee log`, say: it ends when the step does."""
    env = {**os.environ, "MTKD_PROGRESS_S": "1000"}
    body = "tell() { told=x; }; watched tell sleep 0.2; echo done"
    found = subprocess.run(
        script(body), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert found.stdout == "done\n"
