"""Live teachers in another data type than float32."""

import argparse
import math
from pathlib import Path
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import torch

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.task import MTKDTask, load_teachers
from espnet_mtkd.targets.precision import check_live_precision, standardised_error
from espnet_mtkd.teachers.base import parse_teachers


def make_batches(*seconds: float):
    """(ids, batch) of one utterance each."""
    for i, length in enumerate(seconds):
        wave = torch.from_numpy(builders.speech_like(length, i))
        batch = dict(speech=wave[None], speech_lengths=torch.tensor([len(wave)]))
        yield [f"train/u{i}"], batch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_teachers_compute_in_it_and_give_float32(dtype, two_teachers, checkpoints):
    """As the upstream itself does under PyTorch's autocast."""
    from s3prl.nn import S3PRLUpstream

    args = dict(targets_dir=None, teacher_memory_mb=0, teacher_dtype=dtype)
    configs = parse_teachers(str(two_teachers))
    teachers = load_teachers(argparse.Namespace(**args), configs)
    ((_, batch),) = make_batches(2.0)
    found = teachers(*batch.values())
    path = str(checkpoints["hubert_local"])
    upstream = S3PRLUpstream("hubert_local", path_or_url=path).eval()
    is_lower = dtype == "bfloat16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_lower):
        hidden, _ = upstream(*batch.values())
    for layer in (1, 4):
        target_BTE, (num_frames,) = found[f"hubert_l{layer}"]
        assert target_BTE.dtype == torch.float32
        expected = hidden[layer][0, : int(num_frames)].float()
        torch.testing.assert_close(target_BTE[0], expected, rtol=1e-4, atol=1e-4)


def test_a_config_of_an_earlier_version_means_float32(two_teachers):
    args = argparse.Namespace(targets_dir=None, teacher_memory_mb=0)
    teachers = load_teachers(args, parse_teachers(str(two_teachers)))
    assert {t.dtype for t in teachers.teacher.teachers} == {torch.float32}


class Noisy:
    """A teacher that is off by a known share in another type than float32."""

    def __init__(self, error: float):
        self.config, self.dtype = SimpleNamespace(name="noisy"), torch.bfloat16
        self.error, self.num_calls = error, 0
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, speech_BN, lengths_B, utt_ids=None):
        self.num_calls += 1
        frames = lengths_B // 320
        exact = speech_BN[:, : 320 * int(frames.max())].unflatten(1, (-1, 320))
        exact = 100 + exact[..., :8] / exact[..., :8].std()
        if self.dtype != torch.float32:
            noise = torch.randn(exact.shape, generator=self.generator)
            exact = exact + self.error * noise
        return {"noisy_l0": (exact, frames)}


@pytest.mark.parametrize("error, is_refused", [(0.05, False), (0.2, True)])
def test_the_error_is_that_of_standardised_frames(error, is_refused):
    """Beside the mean of 100 it would be nothing."""
    teachers = SimpleNamespace(teachers=[Noisy(error)])
    if not is_refused:
        check_live_precision(teachers, make_batches(3.0, 2.0), "cpu")
        return
    with pytest.raises(ConfigError, match="'noisy_l0' in torch.bfloat16 is off") as e:
        check_live_precision(teachers, make_batches(3.0, 2.0), "cpu")
    told = float(str(e.value).partition("off by ")[2].partition("%")[0]) / 100
    exact, found = [], []
    again = Noisy(error)
    for _, batch in make_batches(3.0, 2.0):
        for kept, dtype in ((found, torch.bfloat16), (exact, torch.float32)):
            again.dtype = dtype
            kept.append(again(*batch.values())["noisy_l0"][0][0].numpy())
    x, y = np.concatenate(exact), np.concatenate(found)
    expected = np.linalg.norm((x - y) / x.std(0))
    expected /= np.linalg.norm((x - x.mean(0)) / x.std(0))
    assert told == pytest.approx(expected, rel=0.01)


def test_no_more_audio_is_heard_than_a_batch_of_the_extraction_has():
    teacher = Noisy(0.0)
    teachers = SimpleNamespace(teachers=[teacher])
    check_live_precision(teachers, make_batches(*[3.0] * 9), "cpu", seconds=10)
    assert teacher.num_calls == 2 * 4
    teacher.dtype = torch.float32
    check_live_precision(teachers, make_batches(*[3.0] * 9), "cpu")
    assert teacher.num_calls == 2 * 4


@pytest.fixture
def command(stage1_command, tmp_path):
    """Function: a training on a teacher whose last hidden state is far from 0."""

    def make(*extra, bias=3000.0):
        builders.build_hubert(tmp_path / "hubert.pt")
        state = torch.load(tmp_path / "hubert.pt")
        name = "encoder.layers.3.final_layer_norm.bias"
        state["model_weight"][name].add_(bias)
        torch.save(state, tmp_path / "hubert.pt")
        entry = dict(name="h", upstream="hubert_local", layers=[4])
        entry["path_or_url"] = str(tmp_path / "hubert.pt")
        teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
        config = builders.mtkd_config(max_epoch=1)
        exp = tmp_path / "exp"
        return stage1_command(exp, teachers, config=config, extra=extra)

    return make


@pytest.mark.remedy("accepted): use {} float32", "from float32 (at most")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_teacher_that_it_changes_is_refused_before_training(
    command, tmp_path, capsys, dtype
):
    words = command("--teacher_dtype", dtype)
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"'h_l4' in torch.{dtype} is off by" in message
    assert "use --teacher_dtype float32" in message
    assert not list(Path(tmp_path / "exp").glob("*.pth"))
    main([*words, "--teacher_dtype", "float32"])
    assert (tmp_path / "exp/1epoch.pth").is_file()


def test_one_that_it_does_not_change_trains_and_the_config_says_so(command, tmp_path):
    main(command("--teacher_dtype", "bfloat16", bias=0.0))
    exp = tmp_path / "exp"
    files = str(exp / "config.yaml"), str(exp / "1epoch.pth")
    model, args = MTKDTask.build_model_from_file(*files)
    assert args.teacher_dtype == "bfloat16"
    (teacher,) = model.teachers.teacher.teachers
    assert teacher.dtype == torch.bfloat16


@pytest.mark.remedy("no teacher runs in this training")
def test_beside_stored_targets_it_is_refused(
    stage1_command, two_teachers, store_targets, tmp_path, capsys
):
    words = stage1_command(
        tmp_path / "exp",
        two_teachers,
        config=builders.mtkd_config(max_epoch=1),
        extra=["--targets_dir", str(store_targets("fp16"))],
    )
    with pytest.raises(SystemExit) as end:
        main([*words, "--teacher_dtype", "bfloat16"])
    assert end.value.code == 2
    assert "leave it out" in capsys.readouterr().err
    main(words)


def test_an_outlier_that_leaves_the_range_is_seen():
    """Outliers overflow first; what they would do to the error is left out else."""
    exact = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    exact[::50] *= 2e4
    found = exact.half().float()
    is_finite = found.isfinite().all(1)
    assert 0 < int((~is_finite).sum()) < 60
    assert standardised_error(exact, found) == math.inf
    assert standardised_error(exact[is_finite], found[is_finite]) < 1e-3
