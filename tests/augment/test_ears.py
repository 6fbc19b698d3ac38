"""What becomes of an utterance, and what it depends on."""

import builders
import numpy as np
import pytest
import scipy.signal
import soundfile

from espnet_mtkd.augment.ears import NoisyEars
from espnet_mtkd.augment.noise_files import check_noises, find_noises, read_part
from espnet_mtkd.augment.noise_options import NoiseOptions, parse_noise_options
from espnet_mtkd.errors import ConfigError, DataError

RATE = builders.SAMPLE_RATE
QUIET = dict(babble=0.0, colour=0.0, room=0.0, gain=(0.0, 0.0))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """`<data set>/<id>` -> file: sines of frequencies of their own, one is short."""
    folder = tmp_path_factory.mktemp("audio")
    paths = {}
    for i in range(6):
        seconds = 0.3 if i == 0 else 3.0
        time = np.arange(round(seconds * RATE)) / RATE
        wave = 0.1 * np.sin(2 * np.pi * 500 * (i + 1) * time)
        paths[f"train/{i}"] = str(folder / f"{i}.flac")
        soundfile.write(folder / f"{i}.flac", wave, RATE)
    return paths


def tones(wave) -> set[int]:
    """Numbers of the utterances of `audio` that are heard in a wave."""
    frequency, density = scipy.signal.periodogram(wave, RATE, window="hann")
    levels = [density[np.argmin(abs(frequency - 500 * (i + 1)))] for i in range(6)]
    return {i for i, x in enumerate(levels) if x > 1e-3 * max(levels)}


def test_what_is_heard_depends_on_seed_epoch_and_utterance_alone(audio):
    options = NoiseOptions(prob=1.0)
    speech = builders.speech_like(1.5, 1)
    before = speech.copy()
    ears = NoisyEars(options, 7, audio)
    first = ears("train/1", speech, 3)
    ears("train/2", speech, 3)
    assert np.array_equal(ears("train/1", speech, 3), first)
    assert np.array_equal(NoisyEars(options, 7, audio)("train/1", speech, 3), first)
    for changed in (
        ears("train/1", speech, 4),
        ears("train/2", speech, 3),
        NoisyEars(options, 8, audio)("train/1", speech, 3),
    ):
        assert not np.array_equal(changed, first)
    assert np.array_equal(speech, before)  # which the teachers hear


def test_each_thing_happens_as_often_as_it_is_asked_for(audio, tmp_path):
    soundfile.write(tmp_path / "n.wav", np.random.default_rng(0).normal(size=9), RATE)
    speech = builders.speech_like(0.2, 1)
    conf = {**QUIET, "prob": 0.5, "files": 0.3, "noise_dir": str(tmp_path)}
    shares = dict(babble=0.2, colour=0.1, files=0.3, room=0.6)
    noises = find_noises(tmp_path)
    for name, share in shares.items():
        options = parse_noise_options({**conf, "files": 1e-9, name: share})
        ears = NoisyEars(options, 1, audio, noises)
        count = sum(
            not np.array_equal(ears(f"train/{i}x", speech, 1), speech)
            for i in range(1500)
        )
        expected = 1500 * 0.5 * share
        assert abs(count - expected) < 5 * np.sqrt(expected), name


def test_babble_is_made_of_as_many_others_as_asked_for(audio):
    options = NoiseOptions(1.0, **{**QUIET, "babble": 1.0}, voices=(1, 1), snr=(0, 0))
    ears = NoisyEars(options, 1, audio)
    tone = 0.1 * np.sin(2 * np.pi * 4000 * np.arange(RATE) / RATE)
    tone = tone.astype(np.float32)
    heard = [tones(ears("train/3", tone, epoch) - tone) for epoch in range(60)]
    assert all(len(x) == 1 for x in heard)
    assert set.union(*heard) == {0, 1, 2, 4, 5}  # never itself
    options = NoiseOptions(1.0, **{**QUIET, "babble": 1.0}, voices=(4, 6))
    ears = NoisyEars(options, 1, audio)
    counts = [len(tones(ears("train/3", tone, e) - tone)) for e in range(9)]
    assert max(counts) > 2


def test_levels_are_drawn_from_their_ranges(audio):
    speech = builders.speech_like(1.0, 2)
    options = NoiseOptions(1.0, **{**QUIET, "gain": (-6.0, 6.0)})
    ears = NoisyEars(options, 1, audio)
    gains = [
        20 * np.log10(ears(f"x/{i}", speech, 1).std() / speech.std())
        for i in range(400)
    ]
    assert -6.001 < min(gains) < -5.8 and 5.8 < max(gains) < 6.001
    assert abs(np.mean(gains)) < 5 * 12 / np.sqrt(12 * 400)
    options = NoiseOptions(1.0, **{**QUIET, "colour": 1.0}, snr=(5.0, 20.0))
    ears = NoisyEars(options, 1, audio)
    ratios = []
    for i in range(200):
        added = ears(f"x/{i}", speech, 1).astype(float) - speech
        ratios.append(
            10 * np.log10((speech.astype(float) ** 2).sum() / (added**2).sum())
        )
    assert 4.9 < min(ratios) < 6 and 19 < max(ratios) < 20.1


@pytest.mark.parametrize("num_samples", [0, 1, 700, 16000])
def test_silence_stays_finite_and_unusable_audio_is_left_to_be_refused(
    audio, num_samples
):
    ears = NoisyEars(NoiseOptions(1.0, room=1.0), 1, audio)
    silence = np.zeros(num_samples, np.float32)
    for epoch in range(20):
        heard = ears("train/1", silence, epoch)
        assert heard.shape == silence.shape and np.isfinite(heard).all()
    for bad in (np.full(5, np.nan, np.float32), np.zeros((5, 2), np.float32)):
        assert ears("train/1", bad, 1) is bad


def test_parts_of_files_begin_anywhere_and_short_ones_come_again(tmp_path):
    ramp = np.arange(1000) / 2000
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    starts = set()
    for seed in range(50):
        part = read_part(tmp_path / "a.wav", 900, np.random.default_rng(seed))
        assert np.allclose(np.diff(part), 1 / 2000, atol=1e-6)
        starts.add(round(part[0] * 2000))
    assert min(starts) < 10 and max(starts) > 90
    part = read_part(tmp_path / "a.wav", 2500, np.random.default_rng(1))
    assert np.allclose(part[:1000], part[1000:2000])
    assert sorted(np.round(part[:1000] * 2000)) == list(range(1000))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match="a.wav: unreadable"):
        read_part(str(tmp_path / "a.wav"), 10, np.random.default_rng(1))


# ------------------------------------------------------------- refusals


def test_noises_are_found_in_folders_and_through_links(tmp_path):
    outside = tmp_path / "outside"
    folder = tmp_path / "noises" / "a" / "b"
    folder.mkdir(parents=True)
    outside.mkdir()
    wave = np.full(100, 0.1)
    soundfile.write(folder / "x.wav", wave, RATE)
    soundfile.write(outside / "y.FLAC", wave, RATE, format="FLAC")
    (folder / "readme.txt").write_text("no audio")
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(tmp_path / "noises")
    names = [p.rsplit("/", 1)[1] for p in find_noises(tmp_path / "noises")]
    assert sorted(names) == ["x.wav", "y.FLAC"]
    check_noises(find_noises(tmp_path / "noises"))


def test_noises_that_cannot_be_heard_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match="noise_dir: .*expected a folder"):
        find_noises(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="expected audio files .* found none"):
        find_noises(tmp_path)
    soundfile.write(tmp_path / "fast.wav", np.zeros(100), 44100)
    soundfile.write(tmp_path / "stereo.wav", np.zeros((100, 2)), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(ConfigError, match="4 of 4 files otherwise") as e:
        check_noises(find_noises(tmp_path))
    for part in ("fast.wav (44100 Hz, channels: 1)", "stereo.wav (16000 Hz, channels"):
        assert part in str(e.value)
    assert "empty.wav: empty" in str(e.value) and "-r 16000 -c 1" in str(e.value)


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"bable": 0.5}, "unknown key 'bable', did you mean 'babble'"),
        (
            {"prob": -0.1},
            "noise_conf.prob: expected one number .* found -0.1",
        ),
        ({"snr": 10}, r"noise_conf.snr: expected \[least, greatest\].* found 10"),
        ({"snr": [20, 5]}, r"noise_conf.snr: .* found \[20, 5\]"),
        ({"gain": [-6, float("inf")]}, "noise_conf.gain: "),
        ({"voices": [1.5, 3]}, "noise_conf.voices: .* two integers from 1"),
        ({"babble": 0.7, "colour": 0.5}, "1 together, or less.*found 1.2"),
        ({"files": 0.2}, "files .* and noise_dir together.* found files alone"),
        ({"noise_dir": "x"}, "noise_dir together.* found noise_dir alone"),
        ({"noise_dir": 3, "files": 0.1}, "noise_dir: expected a folder, found 3"),
    ],
)
def test_values_that_mean_nothing_are_refused(conf, message):
    with pytest.raises(ConfigError, match=message):
        parse_noise_options(conf)


def test_babble_needs_somebody_else(audio):
    one = dict(list(audio.items())[:1])
    with pytest.raises(ConfigError, match="babble: expected at least two utterances"):
        NoisyEars(NoiseOptions(1.0), 1, one)
    NoisyEars(NoiseOptions(1.0, babble=0.0), 1, one)
