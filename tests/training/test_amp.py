"""--use_amp through ESPnet's trainer, both stages: scaler, skipped steps, resume.

ESPnet asks for autocast and a gradient scaler on CUDA alone. Here it is given those of
the CPU, so that all of its code and of ours runs as on a GPU.
"""

import argparse
import functools
import math

import builders
import espnet2.train.trainer as espnet_trainer
import pytest
import torch
from torch.amp import GradScaler

from espnet_mtkd.bin import mtkd_espnet, mtkd_train
from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.training.checkpoints import CHECKPOINT, read, save

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 2.0**10  # fits all gradients here in fp16


@pytest.fixture
def amp(monkeypatch):
    """Function: let --use_amp be of the CPU, in a data type."""

    def install(dtype):
        def autocast(device, enabled):
            return torch.autocast("cpu", dtype, enabled=enabled)

        monkeypatch.setattr(espnet_trainer, "autocast", autocast)
        monkeypatch.setattr(espnet_trainer, "autocast_args", {})
        scaler = functools.partial(GradScaler, "cpu", init_scale=FIRST_SCALE)
        monkeypatch.setattr(espnet_trainer, "GradScaler", scaler)

    return install


SETTINGS = dict(batch_bins=60000, use_matplotlib=False, use_tensorboard=False)


@pytest.fixture
def train(stage1_command, two_teachers, corpus, tmp_path):
    """Function: (stage, folder, further arguments) -> its folder, trained in."""

    def run(stage, name, *extra, **changes):
        exp, settings = tmp_path / name, {**SETTINGS, "max_epoch": 2, **changes}
        extra = ("--use_amp", "true", "--seed", "3", *extra)
        if stage == 1:
            config = builders.mtkd_config(**settings)
            words = stage1_command(exp, two_teachers, config=config, extra=extra)
            mtkd_train.main.__wrapped__(words)
            return exp
        config = builders.asr_config("conformer", **settings)
        file = builders.write_yaml(tmp_path / f"{name}.yaml", config)
        words = ["-m", "espnet2.bin.asr_train", "--config", str(file), "--ngpu", "0"]
        for part in ("train", "valid"):
            folder, flag = (
                getattr(corpus, part),
                f"--{part}_data_path_and_name_and_type",
            )
            words += [flag, f"{folder}/wav.scp,speech,sound"]
            words += [flag, f"{folder}/text,text,text"]
            words += [f"--{part}_shape_file", f"{folder}/speech_shape"]
        words += ["--token_list", str(corpus.tokens), "--token_type", "char"]
        mtkd_espnet.main([*words, "--output_dir", str(exp), *extra])
        return exp

    return run


def curve(exp, key="loss", phase="train"):
    stats = read(exp / CHECKPOINT)["reporter"]["stats"]
    return [stats[epoch][phase][key] for epoch in sorted(stats)]


def same(a, b, where="state"):
    """Two checkpoints, to the last bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", [1, 2])
def test_it_learns_as_in_fp32(stage, dtype, amp, train):
    plain = curve(train(stage, "plain", "--use_amp", "false", max_epoch=3))
    amp(DTYPES[dtype])
    # (oneDNN has no fp16 LSTM for every CPU)
    with torch.backends.mkldnn.flags(enabled=dtype != "fp16"):
        exp = train(stage, "lowered", max_epoch=3)
    found = curve(exp)
    assert found != plain and found[2] < found[0]
    assert found == pytest.approx(plain, rel=0.03)
    assert curve(exp, phase="valid") == pytest.approx(
        curve(exp.parent / "plain", phase="valid"), rel=0.03
    )
    assert sum(curve(exp, "skipped_steps")) == 0
    state = read(exp / CHECKPOINT)
    assert state["scaler"]["scale"] <= FIRST_SCALE
    floats = [v for v in state["model"].values() if v.is_floating_point()]
    assert {v.dtype for v in floats} == {torch.float32}


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_training_is_the_uninterrupted_one(stage, amp, train, monkeypatch):
    """From within an epoch, with a scale that is not the first one."""
    amp(torch.bfloat16)
    growing = functools.partial(
        GradScaler, "cpu", init_scale=FIRST_SCALE, growth_interval=3
    )
    monkeypatch.setattr(espnet_trainer, "GradScaler", growing)
    every_step = dict(save_interval_minutes=1e-6)
    straight = train(stage, "straight", **every_step)

    class Stopped(Exception):
        pass

    from espnet_mtkd.training.saves import Saves

    save_within, count = Saves.save_within, [0]

    def stops(self, *args):
        save_within(self, *args)
        count[0] += 1
        if count[0] == 5:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Saves, "save_within", stops)
        with pytest.raises(Stopped):
            train(stage, "resumed", **every_step)
    saved = read(straight.parent / "resumed" / CHECKPOINT)
    assert saved["position"] is not None
    assert saved["scaler"]["scale"] > FIRST_SCALE
    resumed = train(stage, "resumed", "--resume", "true")
    expected, found = (read(x / CHECKPOINT) for x in (straight, resumed))
    for key in ("model", "optimizers", "scaler"):
        same(found[key], expected[key], key)
    assert found["scaler"]["scale"] > saved["scaler"]["scale"]


def faulty(monkeypatch, value, is_bad):
    """Let some losses of training be another value, or have another gradient."""
    forward, calls = EmbeddingLoss.forward, [0]

    def wrapped(self, *args):
        loss, parts = forward(self, *args)
        calls[0] += torch.is_grad_enabled()
        if torch.is_grad_enabled() and is_bad(calls[0]):
            loss = loss * value if math.isnan(value) else Steep.apply(loss, value)
        return loss, parts

    monkeypatch.setattr(EmbeddingLoss, "forward", wrapped)


class Steep(torch.autograd.Function):
    """The same value, with a gradient that is a factor larger."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def test_a_bad_loss_is_counted_and_the_search_for_a_scale_is_not(
    amp, train, monkeypatch
):
    amp(torch.bfloat16)
    # Three targets: one call of the loss each.
    faulty(monkeypatch, math.nan, lambda n: n == 4)
    exp = train(1, "bad", max_epoch=1)
    assert curve(exp, "skipped_steps") == [1.0]
    assert (exp / "nonfinite/1.pth").is_file()
    assert read(exp / CHECKPOINT)["scaler"]["scale"] == FIRST_SCALE / 2
    monkeypatch.undo()
    amp(torch.bfloat16)
    faulty(monkeypatch, 1e38, lambda n: n <= 6)
    exp = train(1, "search", max_epoch=1)
    assert curve(exp, "skipped_steps") == [0.0]
    assert not (exp / "nonfinite").exists()
    state = read(exp / CHECKPOINT)
    assert state["scaler"]["scale"] < FIRST_SCALE
    assert all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.parametrize("stage", [1, 2])
def test_an_epoch_of_nothing_but_search_is_not_the_last(stage, amp, train, monkeypatch):
    """ESPnet ends where no step of an epoch had finite gradients."""
    amp(torch.bfloat16)
    slow = functools.partial(GradScaler, "cpu", init_scale=3e38, backoff_factor=0.999)
    monkeypatch.setattr(espnet_trainer, "GradScaler", slow)
    faulty(monkeypatch, 100.0, lambda n: True)
    exp = train(stage, "exp")
    assert curve(exp, "skipped_steps") == [0.0, 0.0]


def test_losses_that_are_all_bad_end_the_training(amp, train, monkeypatch):
    amp(torch.float16)
    faulty(monkeypatch, math.nan, lambda n: True)
    with pytest.raises(NonFiniteError, match="2 of .* steps"):
        train(1, "bad")


@pytest.mark.parametrize("stage", [1, 2])
def test_without_a_gpu_a_bad_gradient_is_not_stepped_with(stage, train, monkeypatch):
    """There the scaler is off, and a scaler that is off steps with anything."""
    steps = [0]

    def broken(norm):
        def clip(parameters, **options):
            steps[0] += 1
            parameters = list(parameters)
            if steps[0] == 1:
                parameters[0].grad.fill_(math.nan)
            return norm(parameters, **options)

        return clip

    utils = torch.nn.utils
    monkeypatch.setattr(utils, "clip_grad_norm_", broken(utils.clip_grad_norm_))
    exp = train(stage, "exp", max_epoch=1)
    state = read(exp / CHECKPOINT)
    assert all(v.isfinite().all() for v in state["model"].values())
    assert curve(exp, "skipped_steps") == [1.0]


def test_what_was_begun_without_a_gpu_goes_on_with_one(amp, train):
    """The state of a scaler that is off is empty; one that is on begins anew."""
    exp = train(1, "exp", max_epoch=1)
    state = read(exp / CHECKPOINT)
    assert not state["scaler"]
    save({**state, "scaler": {}}, exp / CHECKPOINT)
    amp(torch.bfloat16)
    train(1, "exp", "--resume", "true", max_epoch=2)
    assert read(exp / CHECKPOINT)["scaler"]["scale"] == FIRST_SCALE


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_heads_that_leave_the_last_block_alone_stay_finite(dtype, two_teachers, corpus):
    """Its outputs get a gradient of 0, for DDP, by a sum that fp16 cannot hold."""
    from espnet_mtkd.objective.options import ObjectiveOptions
    from espnet_mtkd.pretraining.model import ESPnetMTKDModel
    from espnet_mtkd.pretraining.task import load_teachers
    from espnet_mtkd.student.build import build_student
    from espnet_mtkd.teachers.base import parse_teachers

    args = argparse.Namespace(targets_dir=None, teacher_memory_mb=0)
    teachers = load_teachers(args, parse_teachers(str(two_teachers)))
    student = build_student(builders.student_args("conformer"))
    options = ObjectiveOptions(blocks=[1])
    model = ESPnetMTKDModel(*student, teachers, EmbeddingLoss(), options=options)
    wave = torch.from_numpy(builders.speech_like(2.0, 1))[None]
    lengths = torch.tensor([wave.size(1)])
    model.observe_targets(wave, lengths)
    model.objective.fit()
    with torch.no_grad():  # finite each, and their sum is not
        model.encoder.after_norm.weight.zero_()
        model.encoder.after_norm.bias.fill_(30000.0)
    with torch.autocast("cpu", dtype):
        loss = model(wave, lengths)[0]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters())
