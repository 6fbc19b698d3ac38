"""What messages of a training that went wrong say to do, done as it stands there."""

import re
import shutil
import signal
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.bin import mtkd_doctor, mtkd_espnet, mtkd_handover
from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.training.checkpoints import CHECKPOINT, PREVIOUS, read


@pytest.fixture
def train(stage1_command, checkpoints, tmp_path):
    """Function: stage 1 by one teacher into a directory, with these changes."""
    entry = dict(name="h", upstream="hubert_local")
    entry["path_or_url"] = str(checkpoints["hubert_local"])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])

    def run(*extra, exp="exp", train_dir=None, **changes):
        changes = {"max_epoch": 1, **changes}
        config = builders.mtkd_config(**changes)
        words = stage1_command(tmp_path / exp, teachers, config=config, extra=extra)
        if train_dir is not None:
            i = words.index("--train_data_path_and_name_and_type") + 1
            words[i] = f"{train_dir}/wav.scp,speech,sound"
            i = words.index("--train_shape_file") + 1
            words[i] = f"{train_dir}/speech_shape"
        main(words)
        return tmp_path / exp

    return run


@pytest.fixture
def refused(train, capsys):
    """Function: the message of a training that does not go."""

    def run(*extra, code=2, **changes) -> str:
        with pytest.raises(SystemExit) as end:
            train(*extra, **changes)
        assert end.value.code == code
        return capsys.readouterr().err

    return run


def last_epoch(exp) -> int:
    return read(exp / CHECKPOINT)["reporter"]["epoch"]


HOLDS = """
import sys, time
from pathlib import Path
from espnet_mtkd.training.trainer import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.remedy("another training writes to it")
@pytest.mark.parametrize("what", ["wait for it", "end it", "another --output_dir"])
def test_another_training_writes_to_it(train, refused, tmp_path, what):
    seconds = "3" if what == "wait for it" else "600"
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "exp"), seconds]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        # (While this one starts, the other may have ended: it is asked at once.)
        message = refused_by(holder, refused) if seconds == "3" else refused()
        assert what in message
        if what == "end it":
            pid = int(re.search(r"pid (\d+)", message)[1])
            assert pid == holder.pid
            holder.send_signal(signal.SIGTERM)
        if what == "another --output_dir":
            train(exp="other")
        else:
            holder.wait(60)
            train()
    finally:
        holder.kill()
        holder.wait()


def refused_by(holder, refused) -> str:
    """The holder stands still until the refusal is there."""
    holder.send_signal(signal.SIGSTOP)
    try:
        return refused()
    finally:
        holder.send_signal(signal.SIGCONT)


@pytest.mark.remedy(
    "no whole checkpoint to resume from",
    "to begin anew, or put a copy of {} back",
)
@pytest.mark.parametrize("what", ["remove", "copy"])
def test_no_checkpoint_is_whole(train, refused, tmp_path, what):
    exp = train(max_epoch=2)
    copy = shutil.copy(exp / CHECKPOINT, tmp_path / "copy.pth")
    for name in (CHECKPOINT, PREVIOUS):
        data = (exp / name).read_bytes()
        (exp / name).write_bytes(data[: len(data) // 2])
    message = refused("--resume", "true", max_epoch=3)
    folder, name = re.search(
        r"Remove (\S+) to begin anew, or put a copy of (\S+) back", message
    ).groups()
    if what == "remove":
        shutil.rmtree(folder)
    else:
        shutil.copy(copy, exp / name)
    train("--resume", "true", max_epoch=3)
    assert last_epoch(exp) == 3


@pytest.mark.remedy("expected finite numbers, found NaN")
@pytest.mark.parametrize("what", ["<n>epoch.pth", "train it anew"])
def test_a_model_with_nan(train, corpus, capsys, tmp_path, what):
    exp = train(max_epoch=2)
    state = torch.load(exp / "2epoch.pth")
    next(iter(state.values()))[0] = torch.nan
    torch.save(state, exp / "2epoch.pth")
    asr = builders.write_yaml(tmp_path / "asr.yaml", builders.asr_config("conformer"))

    def hand_over(name) -> None:
        words = ["--checkpoint", exp / name, "--mtkd_config", exp / "config.yaml"]
        words += ["--asr_config", asr, "--wav_scp", corpus.valid / "wav.scp"]
        mtkd_handover.main([str(x) for x in words])

    with pytest.raises(SystemExit):
        hand_over("2epoch.pth")
    assert what in capsys.readouterr().err
    if what == "train it anew":
        shutil.rmtree(exp)
        train(max_epoch=2)
        hand_over("2epoch.pth")
    else:
        hand_over("1epoch.pth")


@pytest.mark.remedy("or train with a lower optim_conf.lr into another --output_dir")
def test_a_learning_rate_is_lowered(train, refused):
    """From the last epoch on, or from the beginning; a resumed one keeps its own."""
    bad = dict(batch_bins=30000, optim_conf=dict(lr=1e30))
    message = refused(code=3, **bad)
    assert "begins with its last epoch" not in message  # it has none
    exp = train(exp="lower", optim_conf=dict(lr=0.001))
    train("--resume", "true", exp="lower", max_epoch=2, optim_conf=dict(lr=1e-4))
    (group,) = read(exp / CHECKPOINT)["optimizers"][0]["param_groups"]
    assert group["lr"] == 0.001
    # Too high from the second epoch on.
    schedule = dict(scheduler="steplr", scheduler_conf=dict(step_size=1, gamma=1e30))
    bad = dict(batch_bins=30000, max_epoch=4)
    message = refused(code=3, exp="later", **bad, **schedule)
    latest = re.search(r"--init_param (\S+) begins with its last epoch", message)[1]
    exp = train("--init_param", latest, exp="on", optim_conf=dict(lr=1e-12))
    before = torch.load(latest, weights_only=True)
    for name, value in torch.load(exp / "latest.pth", weights_only=True).items():
        if "encoder" in name and "weight" in name:
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_the_doctor_finds_what_is_not_finite(corpus, capsys, tmp_path, part):
    """Stage 2, whose audio holds NaN: all files, or one of the validation set."""
    builders.copy_data(corpus, tmp_path)
    folders = {name: tmp_path / name for name in ("train", "valid")}
    scp = folders[part] / "wav.scp"
    whole = scp.read_text()
    bad = sorted(folders[part].glob("*.flac"))[: 1 if part == "valid" else None]
    for path in bad:
        wave, rate = soundfile.read(path)
        wave[len(wave) // 2] = np.nan
        soundfile.write(path.with_suffix(".wav"), wave, rate, "FLOAT")
    scp.write_text(whole.replace(".flac", ".wav", len(bad)))
    config = builders.asr_config("conformer", batch_bins=30000)
    command = [
        *("-m", "espnet2.bin.asr_train", "--token_type", "char", "--ngpu", "0"),
        *("--config", builders.write_yaml(tmp_path / "asr.yaml", config)),
        *("--token_list", corpus.tokens, "--output_dir", tmp_path / "exp"),
    ]
    for name, folder in folders.items():
        flag = f"--{name}_data_path_and_name_and_type"
        command += [flag, f"{folder}/wav.scp,speech,sound"]
        command += [flag, f"{folder}/text,text,text"]
        command += [f"--{name}_shape_file", f"{folder}/speech_shape"]
    command = [str(x) for x in command]
    with pytest.raises(SystemExit) as end:
        mtkd_espnet.main(command)
    error = capsys.readouterr().err
    assert end.value.code == 4 and bad[0].stem in error
    words = ["--data_dir", str(scp.parent), "--out_dir", str(tmp_path / "stats")]
    with pytest.raises(SystemExit):
        mtkd_doctor.main(words)
    error = capsys.readouterr().err
    assert bad[0].stem in error
    scp.write_text(whole)
    mtkd_doctor.main(words)
    mtkd_espnet.main(command)


@pytest.mark.remedy("cannot be counted: give the number of updates")
def test_updates_of_several_iterators(train, refused, corpus, tmp_path):
    """ESPnet's --multiple_iterator: folders of lists, one after the other."""
    for name in ("wav.scp", "speech_shape"):
        (tmp_path / name).mkdir()
        lines = (corpus.train / name).read_text().splitlines(True)
        for i in range(2):
            (tmp_path / name / f"split.{i}").write_text("".join(lines[i::2]))
        (tmp_path / name / "num_splits").write_text("2")
    cycle = dict(max_lr=0.004, total_steps="auto")
    several = ["--multiple_iterator", "true"]
    changes = dict(scheduler="onecyclelr", scheduler_conf=cycle, train_dir=tmp_path)
    assert "give the number of updates" in refused(*several, **changes)
    cycle["total_steps"] = 50
    (schedule,) = read(train(*several, **changes) / CHECKPOINT)["schedulers"]
    assert schedule["last_epoch"] >= 2  # updates, of both lists
