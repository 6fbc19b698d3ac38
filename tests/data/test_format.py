"""One channel, and pieces of long recordings, against numpy."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.data.format import FRAME, Durations, find_pauses, format_audio
from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.errors import ConfigError, DataError

RATE = 16000


def noise(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.2 * rng.standard_normal(int(seconds * RATE))).clip(-1, 1)


@pytest.fixture
def formatted(tmp_path):
    """Function: files by utterance -> a directory as format_wav_scp.sh leaves it."""

    def write(audio: dict, subtype="PCM_16"):
        folder = tmp_path / "data with space"
        folder.mkdir(exist_ok=True)
        scp, lengths = [], []
        for utt, samples in audio.items():
            path = folder / f"{utt.replace('/', '_')}.wav"
            soundfile.write(path, samples, RATE, subtype)
            scp.append(f"{utt} {path}\n")
            lengths.append(f"{utt} {len(samples)}\n")
        (folder / "wav.scp").write_text("".join(scp))
        (folder / "utt2num_samples").write_text("".join(lengths))
        return folder

    return write


def read(folder) -> dict[str, np.ndarray]:
    entries = read_wav_scp(folder / "wav.scp")
    return {utt: soundfile.read(path)[0] for utt, path in entries.items()}


@pytest.mark.parametrize("channel", ["mean", "0", "1"])
def test_one_channel_or_the_mean_of_all_is_left(formatted, channel):
    stereo = np.stack([noise(1, 1), noise(1, 2)], 1)
    folder = formatted({"a": stereo, "b/with/slash": stereo[::-1], "mono": noise(1, 3)})
    before = (folder / "mono.wav").read_bytes()
    format_audio(folder, channel)
    found = read(folder)
    for utt, samples in (("a", stereo), ("b/with/slash", stereo[::-1])):
        expected = samples.mean(1) if channel == "mean" else samples[:, int(channel)]
        assert found[utt].ndim == 1
        np.testing.assert_allclose(found[utt], expected, atol=1 / 16384)
    assert read_wav_scp(folder / "wav.scp")["mono"] == str(folder / "mono.wav")
    assert (folder / "mono.wav").read_bytes() == before


def test_a_channel_that_is_not_there_is_named(formatted):
    folder = formatted({"a": np.zeros((RATE, 2))})
    with pytest.raises(DataError, match=r"a \(.*\): expected a channel 2.* found 2"):
        format_audio(folder, "2")
    with pytest.raises(ConfigError, match="--channel: .* found 'left'"):
        format_audio(folder, "left")


def test_a_file_that_cannot_be_read_is_left_to_those_who_name_it(formatted):
    folder = formatted({"a": noise(1, 1)})
    (folder / "a.wav").write_text("no audio")
    before = (folder / "wav.scp").read_text()
    format_audio(folder)
    assert (folder / "wav.scp").read_text() == before


def test_long_recordings_are_cut_and_nothing_is_lost(formatted, tmp_path, caplog):
    long = noise(47, 5)
    folder = formatted({"long": long, "usual": noise(3, 6), "short": noise(0.05, 7)})
    out = tmp_path / "out"
    format_audio(folder, out_dir=out, durations=Durations(0.1, 15))
    found, lengths = read(out), read_lengths(out / "utt2num_samples")
    pieces = [v for k, v in found.items() if k != "usual"]
    names = [f"long-{i:04d}" for i in range(1, len(pieces) + 1)]
    assert list(found) == [*names, "usual"]
    np.testing.assert_allclose(np.concatenate(pieces), long, atol=1 / 16384)
    assert {k: len(v) for k, v in found.items()} == lengths
    assert max(lengths.values()) < 15 * RATE
    text = caplog.text
    assert "1 of 3 recordings are not longer than --min_wav_duration 0.1 s" in text
    assert "1 of 3 recordings are longer than --max_wav_duration 15 s (47.0 s" in text
    assert f"into {len(pieces)} pieces" in text


def test_cuts_lie_in_the_pauses():
    energy = np.ones(4700)  # 47 s of 10 ms frames
    pauses = [950, 1900, 2790, 3700]  # near the fifths
    for frame in pauses:
        energy[frame : frame + 30] = 0
    cuts = find_pauses(energy, len(energy) * FRAME, 15 * RATE)
    assert len(cuts) == len(pauses)
    for cut, pause in zip(cuts, pauses, strict=True):
        assert pause <= cut / FRAME <= pause + 30


@given(seconds=st.floats(1.01, 500), longest=st.floats(1, 60), seed=st.integers(0, 99))
def test_no_piece_is_too_long_or_empty(seconds, longest, seed):
    num, most = int(seconds * longest * RATE / 10), int(longest * RATE)
    if num <= most:
        return
    energy = np.random.default_rng(seed).random(num // FRAME)
    lengths = np.diff([0, *find_pauses(energy, num, most), num])
    assert lengths.max() < most and lengths.min() > 0.1 * most


def test_long_recordings_can_be_left_out_and_are_counted(formatted, tmp_path, caplog):
    folder = formatted({"long": noise(20, 5), "usual": noise(3, 6)})
    out = tmp_path / "out"
    format_audio(folder, out_dir=out, durations=Durations(0.1, 15, cut=False))
    assert list(read(out)) == ["usual"]
    assert "1 of 2 recordings are longer" in caplog.text and "left out" in caplog.text
    with pytest.raises(DataError, match="none of 2 recordings is longer than"):
        format_audio(folder, out_dir=out, durations=Durations(0.1, 2, cut=False))
