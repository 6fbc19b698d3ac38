"""What messages of mtkd.sh and ladder.sh say to do, done as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import builders
import pytest
import stub_recipe
from stub_recipe import calls, extractions, run


@pytest.fixture
def recipe(tmp_path):
    return stub_recipe.build(tmp_path)


def refused(recipe, env=None, code=2, **options) -> str:
    result = run(recipe, env=env, **options)
    assert result.returncode == code, result.stdout[-2000:]
    return result.stdout


def runs(recipe, env=None, **options) -> None:
    result = run(recipe, env=env, **options)
    assert result.returncode == 0, result.stdout[-2000:]


@pytest.mark.remedy("holds a training with other settings")
@pytest.mark.parametrize("what", ["another name", "remove", "go back"])
def test_a_training_with_other_settings(recipe, what):
    (recipe / "checkpoints").touch()
    runs(recipe, asr_tag="a", teachers="none")
    options = dict(asr_tag="a", teachers="none", seed="1")
    message = refused(recipe, **options)
    if what == "another name":
        assert "(--mtkd_tag, --asr_tag)" in message
        options["asr_tag"] = "b"
    elif what == "remove":
        shutil.rmtree(recipe / re.search(r"(\S+) holds a training", message)[1])
    else:
        options["seed"] = "0"
    runs(recipe, **options)


@pytest.mark.remedy("another run is at it")
@pytest.mark.parametrize("what", ["wait", "end it", "another name"])
def test_another_run_is_at_it(recipe, what):
    """It holds the lock as a run does."""
    options = dict(teachers="none", asr_tag="a")
    runs(recipe, **options, stop_stage="6")
    folder = recipe / "exp/asr_a"
    folder.mkdir(exist_ok=True)
    seconds = "6" if what == "wait" else "600"
    holder = subprocess.Popen(["flock", folder / ".lock", "sleep", seconds])
    try:
        deadline = 100
        while subprocess.run(["flock", "-n", folder / ".lock", "true"]).returncode == 0:
            deadline -= 1
            assert deadline
        assert "another run is at it" in refused(recipe, **options)
        if what == "another name":
            options["asr_tag"] = "b"
        elif what == "end it":
            subprocess.run(["pkill", "-P", str(holder.pid)], check=True)
        if what != "another name":
            holder.wait(60)
        runs(recipe, **options)
    finally:
        subprocess.run(["pkill", "-P", str(holder.pid)])
        holder.wait()


@pytest.mark.remedy("GPU(s) on this machine", "--ngpu: expected {} GPU(s)")
@pytest.mark.parametrize("what", ["--ngpu 0", "cmd_backend"])
def test_without_a_gpu(recipe, what):
    env = {"CUDA_VISIBLE_DEVICES": ""}
    message = refused(recipe, env=env, ngpu="1")
    assert f"{'give ' * (what != 'cmd_backend')}{what}" in message
    if what == "cmd_backend":  # whose jobs are not started here
        (recipe / "cmd.sh").write_text("train_cmd=x cuda_cmd=slurm.pl decode_cmd=x\n")
        runs(recipe, env=env, ngpu="1", dry_run="true")
    else:
        runs(recipe, env=env, ngpu="0", stop_stage="6")


@pytest.mark.remedy("expected a recipe's directory that setup.sh has set up")
@pytest.mark.parametrize("script", ["mtkd.sh", "ladder.sh"])
def test_a_directory_that_is_not_set_up(tmp_path, script):
    """From the top, as the message says."""
    for name in ("egs2/TEMPLATE", "tools"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(builders.ROOT / name)
    recipe = tmp_path / "egs2/new/mtkd1"
    recipe.mkdir(parents=True)
    words = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    words += ["--teachers", "none"]
    command = [f"../../TEMPLATE/mtkd1/{script}", *words]
    done = builders.run_group(command, recipe)
    assert done.returncode == 2
    setup = re.search(r"run (egs2/\S+setup.sh \S+)", done.stdout)[1]
    setup = setup.replace("<corpus>", "new")
    subprocess.run(setup.split(), check=True, cwd=tmp_path, capture_output=True)
    done = builders.run_group(command, recipe)
    assert "setup.sh" not in done.stdout and "data/" in done.stdout + "data/"


@pytest.mark.remedy("expected a name without spaces, quotes")
def test_a_name_with_spaces(recipe):
    assert "--asr_tag: expected a name" in refused(recipe, asr_tag="a b")
    runs(recipe, asr_tag="a_b", dry_run="true")


@pytest.mark.remedy("more than files may have: give a shorter one")
def test_a_name_that_is_too_long(recipe):
    options = dict(asr_args="--x " + 230 * "1", teachers="none")
    assert "(--mtkd_tag, --asr_tag)" in refused(recipe, **options)
    runs(recipe, **options, asr_tag="a", dry_run="true")


@pytest.mark.remedy("train it first")
def test_a_teacher_transducer_that_is_not_trained(recipe):
    options = dict(teachers="none", kd_teacher_exp="exp/asr_t")
    assert "train it first" in refused(recipe, **options)
    runs(recipe, teachers="none", asr_tag="t", stop_stage="11")
    runs(recipe, **options, dry_run="true")


@pytest.mark.remedy("two of them would be called '{}': rename one")
def test_two_unlabelled_sets_of_one_name(recipe):
    for name in ("x/a_b", "x_a/b", "b", "y/a_b"):
        stub_recipe.add_set(recipe / f"u/{name}", with_text=False)
    options = dict(unlabelled_sets="u/x/a_b u/x_a/b u/b u/y/a_b")
    assert "would be called 'u_x_a_b': rename one" in refused(recipe, **options)
    (recipe / "u/x").rename(recipe / "u/z")
    runs(recipe, unlabelled_sets="u/z/a_b u/x_a/b u/b u/y/a_b", dry_run="true")


@pytest.mark.remedy("no such file: data/{}/wav.scp: run stage 1")
@pytest.mark.parametrize("what", ["stage 1", "correct"])
def test_a_data_directory_that_is_not_there(recipe, what):
    message = refused(recipe, test_sets="tset", stage="2")
    assert "data/tset/wav.scp: run stage 1" in message
    if what == "correct":
        runs(recipe, test_sets="test", stage="2", dry_run="true")
    else:
        (recipe / "local/data.sh").write_text(
            "#!/usr/bin/env bash\ncp -r data/test data/tset\n"
        )
        asr = (recipe / "asr.sh").read_text()
        (recipe / "asr.sh").write_text(
            asr.replace("    3 | 4)", "    1) local/data.sh ;;\n    3 | 4)")
        )
        runs(recipe, test_sets="tset", stage="1", stop_stage="4")


def set_samples(recipe, num: int) -> None:
    """Let the stub of stage 3 say that utterances of `test` have so many samples."""
    text = (recipe / "asr.sh").read_text()
    text = re.sub(r"s/ \.\*/ \d+/", f"s/ .*/ {num}/", text)
    (recipe / "asr.sh").write_text(text)


@pytest.mark.remedy("on which decoding would end: {}: take them out")
@pytest.mark.parametrize("what", ["take out", "lower"])
def test_test_utterances_that_are_too_short(recipe, what):
    options = dict(teachers="none", stop_stage="4")
    set_samples(recipe, 2000)
    options["skip_train"] = "true"
    message = refused(recipe, **options, min_wav_duration="0.2")
    assert "take them out of data/test" in message
    if what == "lower":
        least = re.search(r"or lower that option, to (\S+) at least", message)[1]
        runs(recipe, **options, min_wav_duration=least)
    else:
        assert "utils/subset_data_dir.sh --utt-list" in message
        set_samples(recipe, 32000)  # of those that are left
        (recipe / "keep").write_text("test-1\n")
        shutil.move(recipe / "data/test", recipe / "data/all")
        path = f"{recipe}/utils:{os.environ['PATH']}"
        subprocess.run(
            ["utils/subset_data_dir.sh", "--utt-list", "keep", "data/all", "data/test"],
            check=True,
            cwd=recipe,
            env={**os.environ, "PATH": path},
        )
        assert len((recipe / "data/test/wav.scp").read_text().splitlines()) == 1
        runs(recipe, **options, min_wav_duration="0.2")


@pytest.mark.remedy("Whisper hears: {}: cut them (segments), or take them out")
def test_test_utterances_longer_than_whisper_hears(recipe):
    config = recipe / "conf/whisper.yaml"
    text = (recipe / "conf/train_teacher_transducer.yaml").read_text()
    config.write_text(text)
    options = dict(teachers="none", stop_stage="4", skip_train="true")
    options["asr_config"] = "conf/whisper.yaml"
    set_samples(recipe, 31 * 16000)
    assert "above 30 s" in refused(recipe, **options)
    set_samples(recipe, 20 * 16000)  # cut
    (recipe / "data/test/text").write_text("test-0 ONE\ntest-1 TWO THREE\n")
    runs(recipe, **options)


def without(recipe, name: str) -> dict:
    """An environment in which a command is not on PATH."""
    folder = recipe / "commands"
    folder.mkdir(exist_ok=True)
    for place in ("/bin", "/usr/bin", "/usr/local/bin"):
        for path in Path(place).iterdir():
            link = folder / path.name
            if path.name != name and not link.is_symlink():
                link.symlink_to(path)
    return {"PATH": str(folder)}


@pytest.mark.remedy(
    "{} is not on PATH: install it",
    "--speed_perturb_factors needs sox, which is not on PATH",
    "Warning: sclite is not on PATH",
)
@pytest.mark.parametrize("name", ["flock", "perl", "sox", "sclite"])
def test_a_command_that_is_not_there(recipe, name):
    """To install it for the machine is not for a test: it is put on PATH."""
    env = without(recipe, name)
    options = dict(dry_run="true", teachers="none")
    if name == "sox":
        options["speed_perturb_factors"] = "0.9 1.0"
    if name == "sclite":
        result = run(recipe, env=env, **options)
        assert "sclite is not on PATH; stage 13 needs it" in result.stdout
    else:
        message = refused(recipe, env=env, **options)
        assert re.search(f"{name}.* is not on PATH: install it", message)
    (recipe / "commands" / name).write_text("#!/bin/sh\n")
    (recipe / "commands" / name).chmod(0o755)
    if name != "sclite":
        found = shutil.which(name)
        (recipe / "commands" / name).unlink()
        (recipe / "commands" / name).symlink_to(found)
    result = run(recipe, env=env, **options)
    assert not re.search(rf"{name}.* not on PATH", result.stdout)
    assert result.returncode == 0, result.stdout[-2000:]


@pytest.mark.remedy("MB free, expected at least 512 MB: free some")
def test_a_disk_that_is_nearly_full(recipe):
    df = recipe / "bin/df"
    for free, code in ((1000, 6), (10**7, 0)):
        df.write_text(f"#!/bin/sh\necho\necho x 1 1 {free} 1 /\n")
        df.chmod(0o755)
        result = run(recipe, teachers="none", dry_run="true")
        assert result.returncode == code, result.stdout[-2000:]
        assert ("free some" in result.stdout) == (code == 6)


@pytest.mark.remedy("Ended by SIG$1; run the same command again")
def test_a_run_that_was_ended_goes_on(recipe):
    words = [x for k, v in stub_recipe.OPTIONS.items() for x in (f"--{k}", v)]
    command = ["timeout", "-s", "TERM", "20", "./mtkd.sh", *words, "--teachers", "none"]
    env = {**os.environ, "PYTHONPATH": str(builders.ROOT), "STUB_SLEEP": "60"}
    result = builders.run_group(command, recipe, env)
    assert "Ended by SIGTERM; run the same command again" in result.stdout
    assert any(x.startswith("asr 11") for x in calls(recipe))
    runs(recipe, teachers="none")
    found = {x.split()[1] for x in calls(recipe) if x.startswith("asr")}
    assert found == {"11", "12", "13"}


@pytest.mark.remedy("whose transcripts they have", "expected no --pseudo_labels true")
def test_transcripts_of_unlabelled_audio(recipe):
    """One message after the other is done as it says, and the student learns them."""
    (recipe / "whisper.txt").write_text("es-0 ONE\n")
    options = dict(teachers="none", pseudo_alone="true", stop_stage="11")
    message = refused(recipe, **options)
    assert "--pseudo_alone true needs --pseudo_whisper, --pseudo_text or" in message
    options["pseudo_text"] = "whisper.txt"
    assert "expected --unlabelled_sets, whose" in refused(recipe, **options)
    options["unlabelled_sets"] = "data/es"
    runs(recipe, **options)
    assert any("mtkd_pseudo_label" in x and "--alone" in x for x in calls(recipe))


@pytest.mark.remedy("expected a Whisper in")
@pytest.mark.remedy("transcripts of the same audio")
def test_a_whisper_for_the_unlabelled_audio(recipe):
    options = dict(teachers="none", unlabelled_sets="data/es", stop_stage="11")
    options |= dict(pseudo_text="whisper.txt", pseudo_whisper="whisper")
    assert "leave one of them out" in refused(recipe, **options)
    del options["pseudo_text"]
    assert "found no whisper/model.bin: fetch one" in refused(recipe, **options)
    (recipe / "whisper").mkdir()
    for name in ("model.bin", "tokenizer.json"):
        (recipe / "whisper" / name).touch()
    runs(recipe, **options)
    assert any("mtkd_transcribe" in x for x in calls(recipe))


@pytest.mark.remedy("beside it, which has the teacher transducer transcribe the same")
@pytest.mark.parametrize("left", ["pseudo_text", "pseudo_labels"])
def test_one_of_two_transcripts_is_left_out(recipe, left):
    (recipe / "whisper.txt").write_text("es-0 ONE\n")
    options = dict(teachers="none", unlabelled_sets="data/es", stop_stage="11")
    options |= dict(pseudo_text="whisper.txt", pseudo_labels="true")
    options["kd_teacher_exp"] = "exp/asr_teacher"
    assert "leave one of them out" in refused(recipe, **options)
    del options[left]
    runs(recipe, **options)
    found = [x for x in calls(recipe) if "mtkd_pseudo_label" in x]
    assert found and all(("--text" in x) == (left == "pseudo_labels") for x in found)


def ladder(recipe, **options) -> subprocess.CompletedProcess:
    options = {**stub_recipe.OPTIONS, "encoders": "conformer", **options}
    words = [x for k, v in options.items() for x in (f"--{k}", v)]
    env = {**os.environ, "PYTHONPATH": str(builders.ROOT)}
    return builders.run_group(["./ladder.sh", *words], recipe, env)


@pytest.mark.remedy(
    "would be that of all rows, which are told apart by it: write a row with it"
)
@pytest.mark.parametrize("what", ["write a row", "call mtkd.sh"])
def test_an_option_of_one_row(recipe, what):
    result = ladder(recipe, rows="teachers", teacher_mode="live")
    assert result.returncode == 2 and f"{what}" in result.stdout
    if what == "call mtkd.sh":
        runs(recipe, teacher_mode="live", dry_run="true")
        return
    row = dict(name="x", adds_to="teachers", options=dict(teacher_mode="live"))
    builders.write_yaml(recipe / "rows.yaml", [row])
    result = ladder(recipe, rows_config="rows.yaml", plan="true")
    assert result.returncode == 0 and "--teacher_mode 'live'" in result.stdout


@pytest.mark.remedy("is one of a run as a whole: give it to ladder.sh")
def test_an_option_of_a_whole_run_in_a_row(recipe):
    row = dict(name="x", adds_to="teachers", options=dict(stop_stage=4))
    builders.write_yaml(recipe / "rows.yaml", [row])
    result = ladder(recipe, rows_config="rows.yaml")
    assert result.returncode == 2
    assert "stop_stage is one of a run as a whole: give it to" in result.stdout
    del row["options"]
    builders.write_yaml(recipe / "rows.yaml", [row])
    result = ladder(recipe, rows_config="rows.yaml", stop_stage="4")
    assert result.returncode == 0, result.stdout[-2000:]
    assert {x.split()[1] for x in calls(recipe) if x.startswith("asr")} == {
        *("1", "3", "4")
    }


@pytest.mark.remedy("--set: expected {} too: call ladder.sh")
def test_the_ladders_program_without_its_script(recipe):
    template = recipe / "../../TEMPLATE/mtkd1"
    command = [sys.executable, "-m", "espnet_mtkd.bin.mtkd_ladder"]
    command += ["--template", template, "--set", "rows=scratch"]
    result = builders.run_group(command, recipe)
    assert result.returncode == 2 and "call ladder.sh" in result.stdout
    result = ladder(recipe, rows="scratch", plan="true")
    assert result.returncode == 0 and "from scratch" in result.stdout


@pytest.mark.remedy("but both write to one --dumpdir")
def test_rows_of_other_audio(recipe):
    """A second time all is finished: nothing that one writes is another one's too."""
    rows = [
        dict(name="x", adds_to="teachers"),
        dict(name="y", adds_to="teachers", options=dict(max_wav_duration=9)),
    ]
    builders.write_yaml(recipe / "rows.yaml", rows)
    result = ladder(recipe, rows_config="rows.yaml")
    assert result.returncode == 2
    assert "give one of them a dumpdir of its own among its options" in result.stdout
    rows[1]["options"]["dumpdir"] = "dump9"
    builders.write_yaml(recipe / "rows.yaml", rows)
    for _ in range(2):
        result = ladder(recipe, rows_config="rows.yaml")
        assert result.returncode == 0, result.stdout[-2000:]
        found = [x for x in calls(recipe) if "mtkd_report" not in x]
        if found:
            doctors = [x for x in found if "mtkd_doctor" in x]
            for lines in (extractions(found), doctors):
                folders = {re.search(r"--out_dir (\S+)", x)[1] for x in lines}
                assert len(folders) == 2
    assert found == [] and "Stage" in result.stdout
