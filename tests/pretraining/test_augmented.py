"""Stage 1 with what makes it harder for the student to hear, as a user runs it."""

import builders
import pytest
import torch
import yaml

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.pretraining.handover import check_handover
from espnet_mtkd.student.load import load_student

MASKS = dict(time_prob=0.65, time_length=10, channel_prob=0.2, channel_length=2)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture
def train(stage1_command, two_teachers, tmp_path):
    """Function: a stage 1 of the tiny corpus; its directory."""

    def run(name, extra=(), encoder="conformer", **changes):
        config = builders.mtkd_config(keep_nbest_models=4, **changes)
        words = stage1_command(
            tmp_path / name, two_teachers, encoder, config=config, extra=extra
        )
        main(words)
        return tmp_path / name

    return run


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def exit_code(command) -> int:
    with pytest.raises(SystemExit) as e:
        main(command)
    return e.value.code


# ------------------------------------------------------------- masks


@pytest.mark.parametrize("encoder", list(builders.ENCODERS))
def test_a_learnt_mask_stays_behind_and_depends_on_seed_and_epoch_alone(
    train, corpus, tmp_path, encoder
):
    exp = train("straight", encoder=encoder, mask_conf=MASKS, max_epoch=2)
    state = load(exp / "2epoch.pth")
    assert {k.split(".")[0] for k in state} == {
        *("frontend", "encoder", "objective", "mask")
    }
    assert state["mask.embedding"].abs().max() > 0
    plain = train("plain", encoder=encoder, max_epoch=1)
    changed = load(exp / "1epoch.pth")
    assert any(
        not torch.equal(value, changed[key])
        for key, value in load(plain / "1epoch.pth").items()
    )

    train("resumed", encoder=encoder, mask_conf=MASKS, max_epoch=1)
    resume = ["--resume", "true"]
    resumed = train("resumed", resume, encoder, mask_conf=MASKS, max_epoch=2)
    assert_same(state, load(resumed / "2epoch.pth"))

    asr = builders.write_yaml(tmp_path / "asr.yaml", builders.asr_config(encoder))
    audio = str(next(corpus.valid.glob("*.flac")))
    count = check_handover(exp / "2epoch.pth", exp / "config.yaml", asr, audio)
    assert count == sum(key.startswith("encoder.") for key in state)
    assert yaml.safe_load((exp / "config.yaml").read_text())["mask_conf"] == MASKS
    wave = torch.from_numpy(builders.speech_like(1.0, 3))[None]
    (h_BTD, *_) = load_student(exp)(wave, torch.tensor([wave.size(1)]))
    assert h_BTD.isfinite().all()


def test_a_mask_that_means_nothing_ends_before_training(
    stage1_command, two_teachers, tmp_path, capsys
):
    extra = ["--mask_conf", "time_prob=2"]
    assert exit_code(stage1_command(tmp_path / "exp", two_teachers, extra=extra)) == 2
    assert "mask_conf.time_prob: expected one number" in capsys.readouterr().err
    assert not list((tmp_path / "exp").glob("*.pth"))
