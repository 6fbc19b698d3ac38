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

from espnet_mtkd.bin import mtkd_doctor, mtkd_handover
from espnet_mtkd.bin.mtkd_train import main


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
    convert = re.search(r"or (sox <file> .*)", message)[1]
    convert = convert.replace("<file>", str(path)).replace("<new file>", "x.flac")
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
