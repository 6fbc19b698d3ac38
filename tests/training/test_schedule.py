"""Schedules that end with the training."""

import builders
import pytest
import torch
import yaml

from espnet_mtkd.bin import mtkd_espnet, mtkd_train
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.task import MTKDTask

CYCLE = dict(
    scheduler="onecyclelr",
    scheduler_conf=dict(max_lr=0.004, total_steps="auto", pct_start=0.25),
)


def checkpoint(exp):
    return torch.load(exp / "checkpoint.pth", weights_only=True)


@pytest.mark.parametrize("accum_grad", [1, 2])
def test_stage_1_ends_where_its_cycle_ends(
    stage1_command, two_teachers, tmp_path, accum_grad
):
    exp = tmp_path / "exp"
    config = builders.mtkd_config() | CYCLE | dict(accum_grad=accum_grad)
    mtkd_train.main(stage1_command(exp, two_teachers, config=config))
    updates = yaml.safe_load((exp / "config.yaml").read_text())["scheduler_conf"]
    state = checkpoint(exp)
    # One step when it is built, one after each update.
    (schedule,) = state["schedulers"]
    assert updates["total_steps"] == schedule["last_epoch"] > 0
    (optimizer,) = state["optimizers"]
    steps = {int(s["step"]) for s in optimizer["state"].values()}
    assert max(steps) == updates["total_steps"]


def test_stage_2_too_and_with_more_epochs_the_cycle_is_stretched(corpus, tmp_path):
    config = builders.asr_config("conformer") | CYCLE
    command = [
        *("-m", "espnet2.bin.asr_train", "--token_type", "char", "--ngpu", "0"),
        *("--config", str(builders.write_yaml(tmp_path / "asr.yaml", config))),
        *("--token_list", str(corpus.tokens), "--resume", "true"),
        *("--output_dir", str(tmp_path / "exp")),
    ]
    for name, folder in (("train", corpus.train), ("valid", corpus.valid)):
        flag = f"--{name}_data_path_and_name_and_type"
        command += [flag, f"{folder}/wav.scp,speech,sound"]
        command += [flag, f"{folder}/text,text,text"]
        command += [f"--{name}_shape_file", f"{folder}/speech_shape"]
    mtkd_espnet.main([*command, "--max_epoch", "2"])
    (two,) = checkpoint(tmp_path / "exp")["schedulers"]
    mtkd_espnet.main([*command, "--max_epoch", "3"])
    (three,) = checkpoint(tmp_path / "exp")["schedulers"]
    assert three["total_steps"] == three["last_epoch"] == two["last_epoch"] * 3 / 2


def test_statistics_are_collected_with_it(corpus, tmp_path):
    args = builders.asr_config("conformer") | CYCLE
    command = [
        *("-m", "espnet2.bin.asr_train", "--token_type", "char", "--ngpu", "0"),
        *("--config", str(builders.write_yaml(tmp_path / "asr.yaml", args))),
        *("--token_list", str(corpus.tokens), "--collect_stats", "true"),
        *("--output_dir", str(tmp_path / "stats")),
    ]
    for name, folder in (("train", corpus.train), ("valid", corpus.valid)):
        flag = f"--{name}_data_path_and_name_and_type"
        command += [flag, f"{folder}/wav.scp,speech,sound"]
        command += [flag, f"{folder}/text,text,text"]
        command += [f"--{name}_shape_file", f"{folder}/wav.scp"]
    mtkd_espnet.main(command)
    assert (tmp_path / "stats/train/feats_stats.npz").is_file()


def test_a_way_up_of_one_update(stage1_command, two_teachers, tmp_path):
    exp = tmp_path / "exp"
    conf = dict(max_lr="auto", total_steps="auto", pct_start=0.5)
    config = builders.mtkd_config(max_epoch=1, batch_type="unsorted", batch_size=1000)
    config = config | dict(scheduler="onecyclelr", scheduler_conf=conf, max_epoch=2)
    mtkd_train.main(stage1_command(exp, two_teachers, config=config))
    (schedule,) = checkpoint(exp)["schedulers"]
    assert schedule["last_epoch"] == 2 and schedule["total_steps"] == 3


def parsed(*words: str):
    command = ["--teachers", "x.yaml", "--output_dir", "x", *words]
    return MTKDTask.get_parser().parse_args(command)


def test_auto_for_something_else_than_updates():
    args = parsed("--scheduler", "onecyclelr", "--scheduler_conf", "pct_start=auto")
    message = "scheduler_conf.pct_start: expected a number"
    with pytest.raises(ConfigError, match=message):
        MTKDTask.build_optimizers(args, torch.nn.Linear(2, 2))


def test_the_learning_rate_is_written_once():
    words = ["--scheduler_conf", "max_lr=auto", "--scheduler_conf", "total_steps=9"]
    args = parsed(*words, "--scheduler", "onecyclelr", "--optim_conf", "lr=0.25")
    MTKDTask.build_optimizers(args, torch.nn.Linear(2, 2))
    assert args.scheduler_conf == dict(max_lr=0.25, total_steps=9)


@pytest.mark.remedy("to take out what a config says")
def test_another_scheduler_than_the_configs(tmp_path):
    conf = dict(max_lr="auto", total_steps="auto", pct_start=0.1)
    config = dict(scheduler="onecyclelr", scheduler_conf=conf)
    path = str(builders.write_yaml(tmp_path / "config.yaml", config))
    words = ["--scheduler", "warmuplr", "--scheduler_conf", "warmup_steps=5"]
    with pytest.raises(ConfigError, match=r"pct_start=null") as error:
        MTKDTask.build_optimizers(
            parsed("--config", path, *words), torch.nn.Linear(2, 2)
        )
    assert "scheduler_conf of warmuplr: unknown key 'pct_start'" in str(error.value)
    args = parsed("--config", path, *words, "--scheduler_conf", "pct_start=null")
    MTKDTask.build_optimizers(args, torch.nn.Linear(2, 2))
    assert args.scheduler_conf == dict(warmup_steps=5)
