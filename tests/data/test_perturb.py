"""Perturbed sets of any path and format are read as ESPnet reads their pipes."""

import shutil
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile

from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.data.perturb import rewrite_pipes


def test_pipes_are_quoted_and_others_left_alone(tmp_path):
    scp = tmp_path / "wav.scp"
    lines = [
        "sp0.9-a sox /x/plain.wav -t wav - speed 0.9 |",
        "sp0.9-b cat b.wav | sox -t wav - -t wav - speed 0.9 |",
        "c /x/with space.flac",
    ]
    scp.write_text("".join(f"{x}\n" for x in lines))
    assert rewrite_pipes(scp) == 0
    assert scp.read_text().splitlines() == lines
    lines.append("sp0.9-d sox /x/it's here.wav -t wav - speed 0.9 |")
    lines.append("sp0.9-e sox /x/e.mp3 -t wav - speed 0.9 |")
    scp.write_text("".join(f"{x}\n" for x in lines))
    assert rewrite_pipes(scp) == 2
    found = read_lines(scp, "pipes")
    assert found["sp0.9-d"] == "sox '/x/it'\"'\"'s here.wav' -t wav - speed 0.9 |"
    reader = f"{sys.executable} -m espnet_mtkd.bin.mtkd_cat_wav --audio /x/e.mp3"
    assert found["sp0.9-e"] == f"{reader} | sox -t wav - -t wav - speed 0.9 |"
    assert rewrite_pipes(scp) == 0


@pytest.mark.parametrize("name", ["a b.wav", "a;b.flac", "a$b.ogg", "ä'b.mp3"])
def test_the_pipe_gives_the_recording_at_the_other_speed(tmp_path, name):
    if shutil.which("sox") is None:
        pytest.skip("no sox: tools/setup.sh installs it where it may")
    wave = builders.speech_like(1.0, 3)
    soundfile.write(tmp_path / name, wave, 16000)
    scp = tmp_path / "wav.scp"
    scp.write_text(f"sp0.8-u sox {tmp_path / name} -t wav - speed 0.8 |\n")
    assert rewrite_pipes(scp) == 1
    command = read_lines(scp, "pipes")["sp0.8-u"].removesuffix("|")
    env = {"PYTHONPATH": str(builders.ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    out = tmp_path / "out.wav"
    out.write_bytes(
        subprocess.run(
            command, shell=True, check=True, env=env, capture_output=True
        ).stdout
    )
    samples, rate = soundfile.read(out)
    assert rate == 16000 and len(samples) == pytest.approx(16000 / 0.8, rel=0.05)
    assert np.std(samples) == pytest.approx(np.std(wave), rel=0.2)
