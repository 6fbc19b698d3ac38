"""Files that were cut are known by their containers; whole ones are not accused."""

import io
import wave

import builders
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.data.audio import find_fault
from espnet_mtkd.data.check import check_ends
from espnet_mtkd.data.containers import find_cut
from espnet_mtkd.errors import DataError

SPEECH = builders.speech_like(3.0, 1)
FORMATS = [
    *(("wav", "WAV", x) for x in ("PCM_16", "PCM_24", "FLOAT", "ULAW")),
    *(
        ("wav", "WAVEX", "PCM_16"),
        ("wav", "RF64", "PCM_16"),
        ("flac", "FLAC", "PCM_16"),
    ),
    *(("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", None)),
]


@pytest.mark.parametrize(("ending", "kind", "subtype"), FORMATS)
def test_whole_files_pass(tmp_path, ending, kind, subtype):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, SPEECH, 16000, subtype, format=kind)
    assert find_cut(path) is None
    if kind != "MP3":  # its decoder's length differs from its header's by a frame
        assert find_fault(str(path))[1] is None


@given(share=st.floats(0.05, 0.98))
@pytest.mark.parametrize(("ending", "kind", "subtype"), [FORMATS[0], *FORMATS[7:9]])
def test_cut_files_are_told(tmp_path_factory, ending, kind, subtype, share):
    path = tmp_path_factory.mktemp("cut") / f"a.{ending}"
    buffer = io.BytesIO()
    soundfile.write(buffer, SPEECH, 16000, subtype, format=kind)
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    assert find_cut(path).startswith("cut: ")
    num_samples, fault = find_fault(str(path))
    assert fault is not None and num_samples < len(SPEECH)


def test_a_wav_from_a_pipe_that_does_not_know_its_length_passes(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((SPEECH * 32767).astype(np.int16).tobytes())
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert find_cut(tmp_path / "a.wav") is None


def test_stage_3_names_what_was_cut(tmp_path):
    for name in ("good", "bad"):
        soundfile.write(tmp_path / f"{name}.wav", SPEECH, 16000)
    data = (tmp_path / "bad.wav").read_bytes()
    (tmp_path / "bad.wav").write_bytes(data[:-400])
    scp = tmp_path / "wav.scp"
    scp.write_text(f"p cat x |\nu1 {tmp_path}/good.wav\n")
    check_ends(tmp_path)
    scp.write_text(f"u1 {tmp_path}/good.wav\nu3 {tmp_path}/missing.wav\n")
    with pytest.raises(DataError, match=r"u3 .*missing.wav\): No such file"):
        check_ends(tmp_path)
    scp.write_text(f"u1 {tmp_path}/good.wav\nu2 {tmp_path}/bad.wav\n")
    with pytest.raises(
        DataError,
        match=r"1 of 2 utterances end too early, or are not there:\s+u2 .*cut",
    ):
        check_ends(tmp_path)
