"""What messages about masks and noise say to do, done as it stands there."""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile
import yaml

from espnet_mtkd.augment.ears import NoisyEars
from espnet_mtkd.augment.masks import MaskOptions, parse_mask_options
from espnet_mtkd.augment.noise_files import check_noises, find_noises, read_part
from espnet_mtkd.augment.noise_options import NoiseOptions, parse_noise_options
from espnet_mtkd.errors import ConfigError

RATE = builders.SAMPLE_RATE


@pytest.mark.remedy("expected [least, greatest]")
@pytest.mark.parametrize(
    ("parse", "options"),
    [(parse_mask_options, MaskOptions), (parse_noise_options, NoiseOptions)],
)
def test_values_within_the_limits_that_a_message_names(parse, options):
    tried = []
    for key in (field.name for field in dataclasses.fields(options)):
        with pytest.raises(ConfigError) as error:
            parse({key: ["high"]})
        message = str(error.value)
        limits = re.search(r"expected (.*) from (\S+) to (\S+), found", message)
        if limits is None:  # a folder
            continue
        what, low, high = limits.groups()
        value, beyond = low, f"{high}9"
        if what.startswith("[least, greatest]"):
            value, beyond = f"[{low}, {high}]", f"[{low}, {high}9]"
        parse(yaml.safe_load(f"{key}: {value}"))
        with pytest.raises(ConfigError, match=f"{key}: expected"):
            parse(yaml.safe_load(f"{key}: {beyond}"))
        tried.append(key)
    assert len(tried) >= 4


@pytest.fixture
def noises(tmp_path):
    """A folder with one noise that can be heard as it is."""
    folder = tmp_path / "noises"
    folder.mkdir()
    soundfile.write(folder / "good.wav", builders.speech_like(1, 1), RATE)
    return folder


def tone(rate, channels):
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    return np.stack([wave] * channels, 1)


def add_noise(folder, name) -> None:
    """A second of 440 Hz, which cannot be heard as it is."""
    path = folder / name
    if name == "of a pipe.flac":  # its header cannot tell the length
        words = "sox -n -r 16000 -t flac - synth 1 sine 440".split()
        path.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    elif path.suffix == ".opus":
        soundfile.write(path, tone(48000, 1), 48000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, tone(44100, 2), 44100)


@pytest.mark.remedy(".noise_dir", ", or write them anew: {}")
@pytest.mark.parametrize("name", ["a b.wav", "x.mp3", "x.opus", "of a pipe.flac"])
def test_noises_are_written_anew(noises, name):
    add_noise(noises, name)
    with pytest.raises(ConfigError) as error:
        check_noises(find_noises(noises))
    command = re.search(r", or write them anew: (.*)", str(error.value))[1]
    command = command.replace("<new file>", shlex.quote(str(noises / "new.wav")))
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    subprocess.run(command, shell=True, check=True)
    (noises / name).unlink()
    check_noises(find_noises(noises))
    wave = read_part(str(noises / "new.wav"), RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(RATE)))
    assert spectrum.argmax() == 440
    assert abs(soundfile.info(noises / "new.wav").frames - RATE) < 0.1 * RATE


@pytest.mark.remedy("take them out of the folder")
@pytest.mark.parametrize("fault", ["empty", "no audio", "cut", "fast"])
def test_noises_are_taken_out(noises, fault):
    path = noises / "bad.wav"
    if fault == "no audio":
        path.write_text("hello")
    else:
        length = dict(empty=0, cut=1000, fast=1000)[fault]
        soundfile.write(path, np.zeros(length), 44100 if fault == "fast" else RATE)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match="take them out of the folder") as error:
        check_noises(find_noises(noises))
    assert ("write them anew" in str(error.value)) == (fault == "fast")
    path.unlink()
    check_noises(find_noises(noises))


@pytest.mark.remedy("name another folder, or take files and noise_dir out")
@pytest.mark.parametrize("what", ["name another folder", "take files and noise_dir"])
def test_a_folder_without_noises(noises, tmp_path, what):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(noises / "good.wav", empty / "good.txt")
    conf = dict(prob=1.0, files=0.3, noise_dir=str(empty))
    with pytest.raises(ConfigError, match=what):
        find_noises(parse_noise_options(conf).noise_dir)
    if what == "name another folder":
        conf["noise_dir"] = str(noises)
        assert find_noises(parse_noise_options(conf).noise_dir)
        return
    del conf["files"], conf["noise_dir"]
    audio = {f"a/{i}": str(noises / "good.wav") for i in range(2)}
    ears = NoisyEars(parse_noise_options(conf), 1, audio)
    speech = builders.speech_like(1, 2)
    assert any(not np.array_equal(ears("a/0", speech, e), speech) for e in range(9))


@pytest.mark.remedy("at least two utterances of training data")
def test_babble_of_nobody_else(noises):
    conf, audio = dict(prob=1.0), {"a/0": str(noises / "good.wav")}
    with pytest.raises(ConfigError, match=r"(\w+): expected at .*: set it to 0") as e:
        NoisyEars(parse_noise_options(conf), 1, audio)
    conf[re.search(r"(\w+): expected", str(e.value))[1]] = 0
    ears = NoisyEars(parse_noise_options(conf), 1, audio)
    speech = builders.speech_like(1, 2)
    assert not np.array_equal(ears("a/0", speech, 1), speech)
