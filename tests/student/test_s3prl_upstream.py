"""A student as an s3prl upstream, through s3prl's own loading code."""

import argparse
import re
import shlex
import subprocess
import sys

import builders
import pytest
import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.s3prl import S3PRLTeacher

ENCODERS = list(builders.ENCODERS)
SHIFT = 640  # samples


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """Encoder name -> a folder as stage 2 leaves it, of random weights."""
    from espnet2.tasks.asr import ASRTask

    folders = {}
    for encoder in ENCODERS:
        folder = tmp_path_factory.mktemp("upstream") / f"asr_{encoder}"
        folder.mkdir()
        config = {
            **ASRTask.get_default_config(),
            **builders.asr_config(encoder),
            "token_list": ["<blank>", "<unk>", "A", "<sos/eos>"],
            "token_type": "char",
        }
        model = ASRTask.build_model(argparse.Namespace(**config))
        builders.randomize(model, 7)
        torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
        builders.write_yaml(folder / "config.yaml", config)
        folders[encoder] = folder
    return folders


def waves(*seconds):
    return [torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)]


def batch(wavs):
    lengths = torch.tensor([len(w) for w in wavs])
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lengths


@pytest.mark.parametrize("encoder", ENCODERS)
def test_s3prl_gives_the_students_hidden_states(exp, encoder):
    import espnet_mtkd.student.s3prl_upstream  # noqa: F401  # isort: skip
    from s3prl.nn import Featurizer, S3PRLUpstream

    from espnet_mtkd.student import load_student

    upstream = S3PRLUpstream("mtkd_student", path_or_url=str(exp[encoder])).eval()
    student = load_student(exp[encoder])
    assert upstream.num_layers == student.num_layers == 3
    assert upstream.hidden_sizes == [student.dim] * 3
    assert upstream.downsample_rates == [student.frame_shift] * 3
    speech, lengths = batch(waves(1.33, 2.2))
    expected, num_frames = student(speech, lengths, layers=True)
    with torch.no_grad():
        found, found_lengths = upstream(speech, lengths)
        weighted, _ = Featurizer(upstream)(found, found_lengths)
    T = int(num_frames.max())
    for h_BTD, e_BTD, lens in zip(found, expected, found_lengths, strict=True):
        assert lens.tolist() == [-(-int(n) // SHIFT) for n in lengths]
        assert h_BTD.shape == (2, int(lens.max()), student.dim)
        assert torch.equal(h_BTD[:, :T], e_BTD)
        tail = h_BTD[:, T:]
        assert torch.equal(tail, e_BTD[:, -1:].expand_as(tail))
    assert weighted.shape == found[0].shape


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_length_passes_s3prls_check_of_frame_counts(exp, encoder):
    """Its assertions allow no upstream that gives half of the frames it promises."""
    from espnet_mtkd.teachers.hub import import_s3prl_hub

    import_s3prl_hub()
    from s3prl.nn import S3PRLUpstream

    upstream = S3PRLUpstream("mtkd_student", path_or_url=str(exp[encoder])).eval()
    wav = torch.from_numpy(builders.speech_like(0.4, 1))[None]
    for num in (1, 799, 960, 1280, 1281, 1921, 2239, 2240, 6400):
        with torch.no_grad():
            hidden, lengths = upstream(wav[:, :num], torch.tensor([num]))
        assert [h.size(1) for h in hidden] == [-(-num // SHIFT)] * 3
        assert all(h.isfinite().all() for h in hidden)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.remedy(
    "mtkd_student: expected a folder of stage 1 or 2",
)
def test_a_student_is_a_teacher(exp, encoder):
    from espnet_mtkd.student import load_student

    path = str(exp[encoder] / "valid.loss.ave.pth")
    config = TeacherConfig("old", "mtkd_student", path_or_url=path, layers=(1, -1))
    teacher = S3PRLTeacher(config)
    assert [(s.name, s.dim, s.frame_shift) for s in teacher.targets] == [
        ("old_l1", 16, SHIFT),
        ("old_l2", 16, SHIFT),
    ]
    assert {s.frame_centre for s in teacher.targets} == {480.0}  # 3 features of 160
    speech, lengths = batch(waves(1.5, 2.0, 0.06))
    found = teacher(speech, lengths)
    student = load_student(path)
    expected, num_frames = student(
        speech, lengths.clamp(min=student.min_samples), layers=True
    )
    for name, layer in (("old_l1", 1), ("old_l2", 2)):
        target, valid = found[name]
        assert torch.equal(target, expected[layer][:, : target.size(1)])
        assert valid.tolist() == teacher.count_frames(lengths, SHIFT)
        assert valid.tolist() == student.num_valid_frames(lengths).tolist()
        assert ((num_frames - valid) <= 1)[:2].all() and valid[2] == 0


def test_a_student_teaches_the_next_one(exp, stage1_command, tmp_path):
    """All of stage 1, its only teacher another student: one line of the YAML."""
    from espnet_mtkd.bin.mtkd_train import main

    path = str(exp["conformer"] / "valid.loss.ave.pth")
    teachers = builders.write_yaml(
        tmp_path / "teachers.yaml",
        [dict(name="old", upstream="mtkd_student", path_or_url=path)],
    )
    main(stage1_command(tmp_path / "exp", teachers))
    log = torch.load(tmp_path / "exp/valid.loss.best.pth", weights_only=True)
    assert {k.split(".")[2] for k in log if k.startswith("objective.heads.")} == {
        "old_l2"
    }
    assert not any("student" in key for key in log)  # no teacher in the checkpoint


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(), "mtkd_student: expected a folder"),
        (dict(path_or_url="/no/such/folder"), "/no/such/folder: no such folder"),
        (dict(extra_conf=dict(no_such=1)), "no_such"),
        (dict(extra_conf=dict(model_config="x")), "expected no model_config"),
    ],
)
def test_what_cannot_be_loaded_is_said(exp, keys, message):
    keys = (
        {"path_or_url": str(exp["conformer"]), **keys} if "extra_conf" in keys else keys
    )
    with pytest.raises(ConfigError, match=message):
        S3PRLTeacher(TeacherConfig("t", "mtkd_student", **keys))


def test_superbs_own_command_trains_on_a_student(exp, tmp_path):
    """Command and config of the page: two steps of s3prl's `run_downstream` with its
    example task, on random audio, the student fine-tuned with it."""
    page = (builders.ROOT / "docs/use_the_encoder.md").read_text()
    (config,) = re.findall(r"^```yaml\n(runner.*?)^```", page, re.M | re.S)
    (command,) = re.findall(r"^```\npython (.*?)^```", page, re.M | re.S)
    (tmp_path / "example.yaml").write_text(config)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/mtkd_x").symlink_to(exp["conformer"])
    result = subprocess.run(
        [sys.executable, *shlex.split(command.replace("\\\n", ""))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "downsample rate is 640" in result.stdout + result.stderr
    # s3prl writes its arguments into it, as Python objects.
    states = torch.load(tmp_path / "result/states-2.ckpt", weights_only=False)
    assert states["Step"] == 2
    assert states["Featurizer"]["weights"].abs().sum() > 0  # learnt
    before = torch.load(exp["conformer"] / "valid.loss.ave.pth", weights_only=True)
    name = "encoder.encoders.0.self_attn.linear_v.weight"
    assert not torch.equal(states["Upstream"][f"student.{name}"], before[name])
