"""A resumed training has the teachers that it began with."""

import json
import shutil

import builders
import pytest
import torch
import yaml

from espnet_mtkd.bin import mtkd_extract, mtkd_train
from espnet_mtkd.errors import ConfigError


@pytest.fixture
def teachers(two_teachers, tmp_path):
    """A list of its own, with copies of the checkpoints."""
    configs = yaml.safe_load(two_teachers.read_text())
    whisper = shutil.copytree(configs[0]["path_or_url"], tmp_path / "whisper")
    configs = [dict(configs[0], path_or_url=str(whisper))]
    return builders.write_yaml(tmp_path / "teachers.yaml", configs)


def again(command):
    mtkd_train.main.__wrapped__([*command, "--resume", "true", "--max_epoch", "3"])


@pytest.mark.remedy("give it that one back, or train into another folder")
def test_other_weights_at_the_same_path_are_refused(stage1_command, teachers, tmp_path):
    command = stage1_command(tmp_path / "exp", teachers)
    mtkd_train.main(command)
    kept = shutil.copytree(tmp_path / "whisper", tmp_path / "kept")
    shutil.rmtree(tmp_path / "whisper")
    torch.manual_seed(9)
    builders.build_whisper(tmp_path / "whisper")
    with pytest.raises(ConfigError, match="teacher 'whisper' is another.*checkpoint: "):
        again(command)
    own, other = str(tmp_path / "exp"), str(tmp_path / "other")
    mtkd_train.main([other if word == own else word for word in command])
    shutil.rmtree(tmp_path / "whisper")
    kept.rename(tmp_path / "whisper")
    again(command)


def test_another_data_type_is_another_teacher(stage1_command, teachers, tmp_path):
    """And one that an earlier version trained with is float32."""
    command = stage1_command(tmp_path / "exp", teachers)
    mtkd_train.main(command)
    other = [*command, "--teacher_dtype", "bfloat16"]
    told = "dtype: expected 'float32', found 'bfloat16'"
    with pytest.raises(ConfigError, match=told):
        again(other)
    path = tmp_path / "exp/teachers.json"
    written = json.loads(path.read_text())
    assert written["whisper"].pop("dtype") == "float32"
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=told):
        again(other)
    again(command)


def test_other_stored_targets_are_refused_and_more_are_not(
    stage1_command, teachers, corpus, tmp_path
):
    def extract(*folders):
        mtkd_extract.main(
            [
                *("--teachers", str(teachers), "--out_dir", str(tmp_path / "targets")),
                *("--data_dir", *map(str, folders), "--form", "fp16", "--ngpu", "0"),
            ]
        )

    extract(corpus.train, corpus.valid)
    extra = ("--targets_dir", str(tmp_path / "targets"))
    command = stage1_command(tmp_path / "exp", teachers, extra=extra)
    mtkd_train.main(command)
    extract(builders.build_data_dir(tmp_path / "more", 2, 7))
    mtkd_train.main([*command, "--resume", "true"])
    store = tmp_path / "targets/whisper/train"
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "targets/whisper/more", store)
    with pytest.raises(ConfigError, match="is another.*targets of train"):
        again(command)
