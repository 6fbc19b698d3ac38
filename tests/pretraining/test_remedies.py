"""What messages of a pre-training say to do, done as it stands there.

That it helps is: the next training updates its student.
"""

import re
import shutil
import subprocess

import builders
import numpy as np
import pytest
import soundfile
import yaml

from espnet_mtkd.bin import mtkd_doctor, mtkd_extract, mtkd_handover
from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import ConfigError


@pytest.fixture
def work(corpus, checkpoints, tmp_path):
    """Data of its own, and one teacher."""
    builders.copy_data(corpus, tmp_path)
    entry = dict(name="h", upstream="hubert_local")
    entry["path_or_url"] = str(checkpoints["hubert_local"])
    builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    return tmp_path


@pytest.fixture
def command(work, corpus, stage1_command):
    """Function: the command of one epoch on that data."""

    def make(*extra, asr=None, **changes):
        config = builders.mtkd_config(**{"max_epoch": 1, **changes})
        teachers = work / "teachers.yaml"
        words = stage1_command(
            work / "exp", teachers, config=config, asr=asr, extra=extra
        )
        for name in ("train", "valid"):
            words = [
                x.replace(str(getattr(corpus, name)), str(work / name)) for x in words
            ]
        return words

    return make


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code in (2, 3, 4, 5)
    return capsys.readouterr().err


def audio(work, name="train"):
    return sorted((work / name).glob("*.flac"))[1]


@pytest.mark.remedy(
    "expected at most {}, the batches of an epoch", "batches of an epoch"
)
@pytest.mark.parametrize("what", ["lower it", "the size of the batches"])
def test_more_batches_than_an_epoch_has(command, capsys, what):
    message = refused(command(accum_grad=4), capsys)
    most = int(re.search(r"at most (\d+)", message)[1])
    assert what in message and most < 4
    main(
        command(accum_grad=most)
        if what == "lower it"
        else command(accum_grad=4, batch_bins=30000)
    )


@pytest.mark.remedy("no longer than --target_delay", "lower --target_delay, or leave")
def test_a_delay_longer_than_the_audio(command, capsys):
    message = refused(command("--target_delay", "30"), capsys)
    assert "lower --target_delay" in message
    main(command("--target_delay", "1"))


@pytest.mark.remedy(
    "Hz and one channel, found",
    "expected one channel, found {}: let stage 3",
)
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_of_another_form(work, command, capsys, channels):
    path = audio(work)
    wave, rate = soundfile.read(path)
    soundfile.write(path, np.stack([wave] * channels, 1), rate // (3 - channels))
    message = refused(command(), capsys)
    convert = re.search(r"or do it: (sox .*)", message)[1]
    convert = convert.replace("<new file>", "x.flac")
    subprocess.run(convert, shell=True, check=True, cwd=work)
    (work / "x.flac").replace(path)
    mtkd_doctor.main(["--data_dir", str(work / "train"), "--out_dir", str(work)])
    main(command())


@pytest.mark.remedy(
    "NaN or infinite", "no line for utterance {} of {}: run mtkd_doctor"
)
@pytest.mark.parametrize("what", ["repair", "take out"])
def test_samples_that_are_no_numbers(work, command, capsys, what):
    path = audio(work)
    wave, rate = soundfile.read(path)
    bad = path.with_suffix(".wav")
    soundfile.write(
        bad, np.where(np.arange(len(wave)) == 9, np.nan, wave), rate, "FLOAT"
    )
    scp = work / "train/wav.scp"
    before = scp.read_text()
    scp.write_text(before.replace(str(path), str(bad)))
    doctor = ["--data_dir", str(work / "train"), "--out_dir", str(work)]
    assert path.stem in refused(command(), capsys)
    with pytest.raises(SystemExit):
        mtkd_doctor.main(doctor)
    assert path.stem in capsys.readouterr().err  # it names all of them
    if what == "repair":
        scp.write_text(before)
    else:
        lines = [x for x in before.splitlines(True) if not x.startswith(path.stem)]
        scp.write_text("".join(lines))
        assert "run mtkd_doctor for this" in refused(command(), capsys)
        mtkd_doctor.main(doctor)
    main(command())


@pytest.mark.remedy("Exit code 3")
def test_a_learning_rate_that_is_too_high(work, command, capsys):
    message = refused(command(optim_conf=dict(lr=1e30), max_epoch=2), capsys)
    assert "with a lower optim_conf.lr into another --output_dir" in message
    main(command("--output_dir", str(work / "lower"), optim_conf=dict(lr=0.005)))


@pytest.mark.remedy("expected sequence or category")
def test_chunks_of_utterances(command, capsys):
    assert "expected sequence" in refused(command(iterator_type="chunk"), capsys)
    main(command(iterator_type="sequence"))


@pytest.mark.remedy(
    "its encoder is not the one of",
    "Train stage 1 with this --asr_config, or take the one it was trained with",
    "no such checkpoint: {}: run stage 9 first",
    "no such config: {}: run stage 9 first",
)
@pytest.mark.parametrize("what", ["train stage 1", "take the one"])
def test_another_encoder(work, command, capsys, what):
    asr = builders.asr_config("conformer")
    other = {**asr, "encoder_conf": {**asr["encoder_conf"], "num_blocks": 1}}
    right = builders.write_yaml(work / "right.yaml", asr)
    wrong = builders.write_yaml(work / "wrong.yaml", other)

    def handover(config) -> None:
        mtkd_handover.main(
            [
                *("--checkpoint", str(work / "exp/valid.loss.best.pth")),
                *("--mtkd_config", str(work / "exp/config.yaml")),
                *("--asr_config", str(config)),
                *("--wav_scp", str(work / "valid/wav.scp")),
            ]
        )

    for name in ("valid.loss.best.pth", "config.yaml"):
        with pytest.raises(SystemExit):
            handover(right)
        assert "run stage 9 first" in capsys.readouterr().err
        if name == "config.yaml":
            break
        main(command())
        (work / "exp/config.yaml").rename(work / "config.yaml")
    (work / "config.yaml").rename(work / "exp/config.yaml")
    with pytest.raises(SystemExit):
        handover(wrong)
    assert "Train stage 1 with this --asr_config" in capsys.readouterr().err
    if what == "train stage 1":
        shutil.rmtree(work / "exp")
        main(command(asr=other))
        handover(wrong)
    else:
        handover(right)


@pytest.mark.remedy("hears at most", "lower --max_wav_duration, or segment the audio")
def test_utterances_longer_than_whisper_hears(work, checkpoints, command, capsys):
    """What --max_wav_duration leaves out; then the doctor's list is the shorter one."""
    entry = dict(name="w", upstream="whisper_local")
    entry["path_or_url"] = str(checkpoints["whisper_local"])
    builders.write_yaml(work / "teachers.yaml", [entry])
    path = audio(work)
    wave, rate = soundfile.read(path)
    soundfile.write(path, np.tile(wave, 31), rate)
    doctor = ["--data_dir", str(work / "train"), "--out_dir", str(work)]
    mtkd_doctor.main(doctor)
    assert "lower --max_wav_duration" in refused(command(), capsys)
    soundfile.write(path, wave, rate)  # segmented
    mtkd_doctor.main(doctor)
    main(command())


def split(folder, names) -> None:
    """In the place of files folders of one part, as ESPnet's split_scps writes them."""
    for name in names:
        content = (folder / name).read_text()
        (folder / name).unlink()
        (folder / name).mkdir()
        (folder / name / "num_splits").write_text("1")
        (folder / name / "split.0").write_text(content)


@pytest.mark.remedy("expected prob 0", "out, or set prob to 0")
@pytest.mark.parametrize("what", ["leave --multiple_iterator", "set prob to 0"])
def test_noise_and_an_iterator_of_parts(work, command, capsys, what):
    extra, conf = ["--multiple_iterator", "true"], dict(prob=1.0)
    message = refused(command(*extra, noise_conf=conf), capsys)
    assert what in message
    if what == "set prob to 0":
        conf["prob"] = 0
        split(work / "train", ["wav.scp", "speech_shape"])
    else:
        extra = []
    main(command(*extra, noise_conf=conf))


@pytest.mark.remedy("train by espnet_mtkd.bin.mtkd_train")
def test_noise_under_espnet3(work, command):
    """Which then builds the model without; mtkd_train makes the noise."""
    from espnet3.utils.task_utils import get_espnet_model

    asr = builders.asr_config("conformer")
    config = {k: asr[k] for k in ("frontend_conf", "encoder", "encoder_conf")}
    config["teachers"] = yaml.safe_load((work / "teachers.yaml").read_text())
    config["noise_conf"] = dict(prob=1.0)
    with pytest.raises(ConfigError, match="prob 0 under ESPnet3.*train by"):
        get_espnet_model("espnet_mtkd.pretraining.task.MTKDTask", config)
    main(command(noise_conf=config["noise_conf"]))
    config["noise_conf"] = dict(prob=0)
    get_espnet_model("espnet_mtkd.pretraining.task.MTKDTask", config)


@pytest.mark.remedy("expected --targets_dir with stored codes")
@pytest.mark.parametrize("which", ["target_type", "loss_conf.codes"])
def test_codes_that_are_learnt_are_stored_before(work, command, capsys, which):
    """One message after the other is done as it says, till the student is updated."""
    conf = dict(align="mean", objective_conf=dict(layers="mean"))
    extra = []
    if which == "target_type":
        extra = ["--target_type", "codes"]
    else:
        conf["loss_conf"] = dict(codes=0.2)
    message = refused(command(*extra, **conf), capsys)
    form = re.search(r"run mtkd_extract (--form \w+)", message)[1].split()
    data = ["--data_dir", str(work / "train"), str(work / "valid"), *form]
    words = ["--teachers", str(work / "teachers.yaml"), "--out_dir", str(work / "t")]
    mtkd_extract.main([*words, *data, "--num_codebooks", "4"])
    extra += ["--targets_dir", str(work / "t")]
    message = refused(command(*extra, **conf), capsys)
    conf["align"] = re.search(r"expected align (\w+), found mean", message)[1]
    message = refused(command(*extra, **conf), capsys)
    layers = re.search(r"expected objective_conf.layers (\w+), found mean", message)[1]
    conf["objective_conf"] = dict(layers=layers)
    main(command(*extra, **conf))


@pytest.mark.remedy("phi-s: expected at least")
@pytest.mark.parametrize("what", ["more training audio", "standardize: robust"])
def test_phi_s_of_fewer_frames_than_dimensions(work, command, capsys, what):
    """Whole windows as targets: 240 dimensions, and less than two seconds of audio."""
    entry = dict(name="t", upstream="fbank")
    builders.write_yaml(work / "teachers.yaml", [entry])
    shape = work / "train/speech_shape"
    lines = shape.read_text().splitlines(True)
    shape.write_text(lines[0])
    conf = dict(standardize="phi-s")
    message = refused(command(objective_conf=conf), capsys)
    assert "phi-s: expected at least 240 frames of target 't_l0'" in message
    assert what in message
    if what == "more training audio":
        shape.write_text("".join(lines))
    else:
        conf["standardize"] = "robust"
    main(command(objective_conf=conf))


@pytest.mark.remedy("objective_conf.blocks: the student has the blocks 1 to {}")
@pytest.mark.parametrize("what", ["correct the list", "raise encoder_conf.num_blocks"])
def test_heads_on_a_block_that_is_not_there(command, capsys, what):
    conf = dict(blocks=[1, 3])
    message = refused(command(objective_conf=conf), capsys)
    assert what in message
    asr = builders.asr_config("conformer")
    if what == "correct the list":
        conf["blocks"] = [1, int(re.search(r"blocks 1 to (\d+)", message)[1])]
    else:
        asr["encoder_conf"] = {**asr["encoder_conf"], "num_blocks": 3}
    main(command(asr=asr, objective_conf=conf))
