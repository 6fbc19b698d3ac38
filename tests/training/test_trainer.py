"""Trainings that are killed, told to end, or two at once; each a process of its own."""

import os
import signal
import subprocess
import sys
import time

import builders
import pytest
import torch

from espnet_mtkd.bin import mtkd_train
from espnet_mtkd.errors import ConfigError, NonFiniteError
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.training.checkpoints import CHECKPOINT, read
from espnet_mtkd.training.trainer import held


def test_a_tally_of_kills(tmp_path):
    """At random times and within an epoch, both stages; see the benchmark."""
    command = [sys.executable, str(builders.ROOT / "benchmarks/kills.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [*command, "--kills", "4", "--seed", "3"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.count("4 kills") == 2 and "0 lost" in ran.stdout


@pytest.mark.remedy("run the same command again to go on", "run it again to go on")
def test_told_to_end_it_saves_and_the_same_command_goes_on(
    stage1_command, two_teachers, tmp_path
):
    # Enough batches that the signal comes within an epoch.
    config = builders.mtkd_config(max_epoch=40, batch_bins=30000, keep_nbest_models=1)
    command = [
        *(sys.executable, "-m", "espnet_mtkd.bin.mtkd_train"),
        *stage1_command(tmp_path / "exp", two_teachers, config=config),
        *("--resume", "true", "--use_tensorboard", "false"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / f"exp/{CHECKPOINT}").is_file():
        assert run.poll() is None, run.stderr.read()[-2000:]
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 8, stderr[-2000:]
    assert "run the same command again to go on" in stderr
    saved = read(tmp_path / f"exp/{CHECKPOINT}")
    done = saved["reporter"]["epoch"]
    assert 1 <= done < 40
    assert saved["position"]["epoch"] == done + 1
    short = [*command, "--max_epoch", str(done + 1)]
    subprocess.run(short, env=env, check=True, capture_output=True)
    assert read(tmp_path / f"exp/{CHECKPOINT}")["reporter"]["epoch"] == done + 1


def test_two_at_once(stage1_command, two_teachers, tmp_path):
    command = stage1_command(tmp_path / "exp", two_teachers)
    with held(tmp_path / "exp"):
        with pytest.raises(ConfigError, match=f"another training.*pid {os.getpid()}"):
            mtkd_train.main.__wrapped__(command)
    mtkd_train.main(command)


def faulty(monkeypatch, is_bad):
    """Let some of the losses be NaN."""
    forward, calls = EmbeddingLoss.forward, [0]

    def wrapped(self, *args):
        loss, parts = forward(self, *args)
        calls[0] += torch.is_grad_enabled()
        return (loss * torch.nan if is_bad(calls[0]) else loss), parts

    monkeypatch.setattr(EmbeddingLoss, "forward", wrapped)


def test_one_bad_step_is_counted(stage1_command, two_teachers, tmp_path, monkeypatch):
    # Three targets: one call of the loss each.
    faulty(monkeypatch, lambda n: torch.is_grad_enabled() and n == 4)
    mtkd_train.main(stage1_command(tmp_path / "exp", two_teachers))
    stats = read(tmp_path / f"exp/{CHECKPOINT}")["reporter"]["stats"]
    assert [stats[e]["train"]["skipped_steps"] for e in (1, 2)] == [1.0, 0.0]
    state = read(tmp_path / "exp/valid.loss.best.pth")
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())
    assert (tmp_path / "exp/nonfinite/1.pth").is_file()


def test_half_of_the_steps(stage1_command, two_teachers, tmp_path, monkeypatch):
    config = builders.mtkd_config(batch_bins=40000)
    faulty(monkeypatch, lambda n: torch.is_grad_enabled() and n // 3 % 2)
    with pytest.raises(NonFiniteError, match="2 of .* steps.*last utterances: train/"):
        mtkd_train.main.__wrapped__(
            stage1_command(tmp_path / "exp", two_teachers, config=config)
        )


def test_a_validation_loss_of_nan(stage1_command, two_teachers, tmp_path, monkeypatch):
    faulty(monkeypatch, lambda n: not torch.is_grad_enabled())
    with pytest.raises(NonFiniteError, match="validation loss.*utterances valid/utt"):
        mtkd_train.main.__wrapped__(stage1_command(tmp_path / "exp", two_teachers))
