"""Stage 1 with what makes it harder for the student to hear, as a user runs it."""

import builders
import pytest
import soundfile
import torch
import yaml
from espnet2.train.distributed_utils import DistributedOption

from espnet_mtkd.bin import mtkd_extract
from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.pretraining.check import CheckedBatches
from espnet_mtkd.pretraining.handover import check_handover
from espnet_mtkd.pretraining.task import MTKDTask
from espnet_mtkd.results.report import read_curve
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


# ------------------------------------------------------------- noise

NOISE = dict(prob=0.8, room=0.5, colour=0.3, babble=0.5)


def with_unlabelled(corpus, tmp_path) -> list[str]:
    """Options for three utterances without text."""
    folder = builders.build_data_dir(tmp_path / "unlabelled", 3, 5)
    return [
        *("--unlabelled_wav_scp", str(folder / "wav.scp")),
        *("--unlabelled_shape_file", str(folder / "speech_shape")),
    ]


def epochs_heard(words, mode, epochs) -> dict:
    """(epoch, utterance) -> its batch's rows, as the task's own loader gives them."""
    args = MTKDTask.get_parser().parse_args(words)
    factory = MTKDTask.build_iter_factory(args, DistributedOption(), mode)
    rows = {}
    for epoch in epochs:
        for utts, batch in factory.build_iter(epoch):
            for i, utt in enumerate(utts):
                length = batch["speech_lengths"][i]
                rows[epoch, utt] = {
                    key: batch[key][i, :length]
                    for key in ("speech", "heard")
                    if key in batch
                }
    return rows


def test_the_loader_gives_noise_beside_clean_speech_whoever_loads_it(
    stage1_command, two_teachers, corpus, tmp_path
):
    extra = with_unlabelled(corpus, tmp_path)

    def heard(num_workers, epochs, mode="train", **changes):
        config = {**dict(num_workers=num_workers, noise_conf=NOISE), **changes}
        config = builders.mtkd_config(**config)
        words = stage1_command(tmp_path, two_teachers, config=config, extra=extra)
        return epochs_heard(words, mode, epochs)

    here = heard(0, [1, 2, 3])
    for other in (
        heard(2, [1, 2, 3]),
        heard(0, [3]),  # as where a training is resumed
        heard(0, [1, 2], batch_bins=60000),
    ):
        for key, row in other.items():
            # Of the unlabelled batches an epoch has as many as of the others.
            if key in here:
                assert torch.equal(row["heard"], here[key]["heard"])
        assert len(other.keys() & here.keys()) > 10
    changed = [not torch.equal(x["speech"], x["heard"]) for x in here.values()]
    assert 0.5 < sum(changed) / len(changed) < 1
    utts = {utt for _, utt in here}
    assert {utt.split("/")[0] for utt in utts} == {"train", "unlabelled"}
    same = [
        torch.equal(here[1, utt]["heard"], here[2, utt]["heard"])
        for utt in utts
        if (1, utt) in here and (2, utt) in here
    ]
    assert sum(same) < len(same) / 2
    for (_, utt), row in here.items():
        name, utt = utt.split("/")
        folder = corpus.train if name == "train" else tmp_path / name
        clean, _ = soundfile.read(folder / f"{utt}.flac", dtype="float32")
        assert torch.equal(row["speech"], torch.from_numpy(clean))
        assert row["heard"].isfinite().all()
    assert all("heard" not in x for x in heard(0, [1], "valid").values())
    assert all("heard" not in x for x in heard(0, [1], noise_conf={}).values())


@pytest.mark.parametrize("encoder", list(builders.ENCODERS))
def test_noise_depends_on_neither_workers_nor_resume(train, corpus, tmp_path, encoder):
    extra = with_unlabelled(corpus, tmp_path)
    conf = dict(noise_conf=NOISE, mask_conf=MASKS)
    straight = train("straight", extra, encoder, max_epoch=2, **conf)
    train("resumed", extra, encoder, num_workers=2, max_epoch=1, **conf)
    extra = [*extra, "--resume", "true"]
    resumed = train("resumed", extra, encoder, num_workers=2, max_epoch=2, **conf)
    assert_same(load(straight / "2epoch.pth"), load(resumed / "2epoch.pth"))


def test_teachers_hear_clean_audio_live_remembered_and_stored(
    train, two_teachers, corpus, tmp_path
):
    """Were it otherwise, what is learnt would depend on where targets come from."""
    targets = tmp_path / "targets"
    mtkd_extract.main(
        [
            *("--teachers", str(two_teachers), "--form", "fp16", "--exact"),
            *("--data_dir", str(corpus.train), str(corpus.valid)),
            *("--out_dir", str(targets)),
        ]
    )
    # One utterance a batch: padding moves HuBERT's hidden states, by its group norm.
    conf = dict(noise_conf={**NOISE, "prob": 1.0}, batch_bins=1, max_epoch=2)
    curves = {}
    for name, extra in {
        "live": ["--teacher_memory_mb", "0"],
        "remembered": [],
        "stored": ["--targets_dir", str(targets)],
    }.items():
        exp = train(name, extra, **conf)
        curves[name] = [read_curve(exp, x)[1] for x in ("train", "valid")]
    for name in ("remembered", "stored"):
        for one, other in zip(curves["live"], curves[name], strict=True):
            assert other == pytest.approx(one, rel=2e-3), name


@pytest.mark.parametrize(
    "conf, message",
    [
        (["bable=0.5"], "unknown key 'bable', did you mean 'babble'"),
        (["prob=1.5"], "noise_conf.prob: expected one number from 0 to 1"),
        (
            ["prob=0.5", "files=0.1", "noise_dir=nowhere"],
            "noise_dir: nowhere: expected",
        ),
        (["prob=0.5", "files=0.1", "noise_dir={empty}"], "expected audio files"),
        (["prob=0.5", "files=0.1", "noise_dir={fast}"], "x.wav -r 16000 -c 1 <new"),
    ],
)
def test_noise_that_cannot_be_made_ends_before_training(
    stage1_command, two_teachers, tmp_path, capsys, conf, message
):
    for name in ("empty", "fast"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "fast/x.wav", [0.1] * 100, 44100)
    extra = []
    for word in conf:
        word = word.format(empty=tmp_path / "empty", fast=tmp_path / "fast")
        extra += ["--noise_conf", word]
    assert exit_code(stage1_command(tmp_path / "exp", two_teachers, extra=extra)) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "exp").glob("*.pth"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_noise_that_vanishes_is_named_without_a_traceback(
    stage1_command, two_teachers, tmp_path, num_workers
):
    noise = tmp_path / "noises/x.wav"
    noise.parent.mkdir()
    soundfile.write(noise, [0.1] * 100, 16000)
    conf = dict(prob=1.0, babble=0.0, colour=0.0, files=1.0)
    conf["noise_dir"] = str(noise.parent)
    config = builders.mtkd_config(num_workers=num_workers, noise_conf=conf)
    words = stage1_command(tmp_path, two_teachers, config=config)
    args = MTKDTask.get_parser().parse_args(words)
    factory = MTKDTask.build_iter_factory(args, DistributedOption(), "train")
    assert len(list(CheckedBatches(factory.build_iter(1)))) > 1
    noise.unlink()
    with pytest.raises(DataError) as e:
        list(CheckedBatches(factory.build_iter(2)))
    assert str(e.value).startswith(f"{noise}: unreadable")
    assert "Traceback" not in str(e.value)


def test_a_noise_dir_is_looked_at_while_statistics_are_collected(
    stage1_command, two_teachers, tmp_path, capsys
):
    extra = ["--collect_stats", "true", "--noise_conf", "files=0.1"]
    extra += ["--noise_conf", f"noise_dir={tmp_path / 'nowhere'}"]
    assert exit_code(stage1_command(tmp_path / "exp", two_teachers, extra=extra)) == 2
    assert "nowhere: expected a folder of audio" in capsys.readouterr().err


def test_a_training_elsewhere_that_would_make_no_noise_is_refused(two_teachers):
    """ESPnet3 builds the model alone."""
    from espnet3.utils.task_utils import get_espnet_model

    asr = builders.asr_config("conformer")
    config = {
        "teachers": yaml.safe_load(two_teachers.read_text()),
        **{k: asr[k] for k in ("frontend_conf", "encoder", "encoder_conf")},
        "noise_conf": {"prob": 0.5},
    }
    with pytest.raises(ConfigError, match="noise_conf: .* ESPnet3.* found 0.5"):
        get_espnet_model("espnet_mtkd.pretraining.task.MTKDTask", config)
