"""Noises, rooms and levels against other computations of them."""

import builders
import numpy as np
import pytest
import scipy.signal

from espnet_mtkd.augment.waves import (
    babble,
    coloured_noise,
    in_room,
    mix,
    room_response,
)

RATE = builders.SAMPLE_RATE


@pytest.mark.parametrize("snr", [-10.0, 5.0, 20.0])
def test_the_ratio_of_powers_is_the_one_asked_for(snr):
    speech = builders.speech_like(2.0, 1)
    noise = builders.speech_like(2.0, 2)
    added = mix(speech, noise, snr).astype(np.float64) - speech
    measured = 10 * np.log10(np.sum(speech.astype(float) ** 2) / np.sum(added**2))
    assert measured == pytest.approx(snr, abs=0.01)
    assert np.corrcoef(added, noise)[0, 1] > 0.999


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("num_samples", [60 * RATE, 60 * RATE + 7])
def test_the_spectrum_falls_as_it_should(exponent, num_samples):
    wave = coloured_noise(num_samples, exponent, np.random.default_rng(1))
    assert wave.shape == (num_samples,) and wave.dtype == np.float32
    frequency, density = scipy.signal.welch(wave, RATE, nperseg=4096)
    part = (frequency > 100) & (frequency < 7000)
    slope, _ = np.polyfit(np.log(frequency[part]), np.log(density[part]), 1)
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_a_room_comes_after_the_direct_sound_and_decays_as_told():
    responses = np.stack(
        [
            room_response(8000, 8000, 6.0, np.random.default_rng(seed))
            for seed in range(400)
        ]
    )
    assert (responses[:, 0] == 1).all()
    energy = (responses[:, 1:].astype(float) ** 2).sum(1)
    assert 10 * np.log10(1 / energy) == pytest.approx(np.full(400, 6.0), abs=0.01)
    # Mean energy over many rooms, in dB, falls by 60 from the first to the last sample.
    level = 10 * np.log10((responses[:, 1:].astype(float) ** 2).mean(0))
    slope, _ = np.polyfit(np.arange(len(level)), level, 1)
    assert slope * 8000 == pytest.approx(-60, abs=0.5)


def test_a_room_moves_no_frame():
    """Nothing is heard before it is said, and the speech is where it was."""
    response = room_response(6400, 6400, 3.0, np.random.default_rng(2))
    speech = builders.speech_like(2.0, 3)
    heard = in_room(speech, response)
    assert heard.shape == speech.shape and heard.dtype == np.float32
    late = speech.copy()
    late[20000:] = 0
    assert in_room(late, response)[:20000] == pytest.approx(heard[:20000], abs=1e-5)
    lags = scipy.signal.correlation_lags(len(heard), len(speech))
    best = lags[np.argmax(scipy.signal.correlate(heard, speech))]
    assert best == 0
    slow = [
        sum(speech[n - k] * response[k] for k in range(min(n + 1, len(response))))
        for n in (0, 1, 5000, 31000)
    ]
    assert heard[[0, 1, 5000, 31000]] == pytest.approx(np.array(slow), abs=1e-4)


def test_voices_of_a_babble_are_equally_loud():
    quiet, loud = builders.speech_like(1.0, 4) * 0.01, builders.speech_like(1.0, 5)
    both = babble([quiet, np.zeros_like(loud), loud]).astype(float)
    for voice in (quiet, loud):
        share = np.dot(both, voice) / np.dot(voice, voice) * voice.std()
        assert share == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "speech, noise",
    [
        (np.zeros(100, np.float32), np.ones(100, np.float32)),
        (np.ones(100, np.float32), np.zeros(100, np.float32)),
        (np.ones(100, np.float32), np.full(100, np.nan, np.float32)),
    ],
)
def test_silence_has_no_ratio_to_anything(speech, noise):
    assert np.array_equal(mix(speech, noise, 10.0), speech)


@pytest.mark.parametrize("num_samples", [1, 2, 401])
def test_the_shortest_waves_are_finite(num_samples):
    generator = np.random.default_rng(0)
    assert coloured_noise(num_samples, 2.0, generator).shape == (num_samples,)
    speech = np.ones(num_samples, np.float32)
    assert np.isfinite(in_room(speech, room_response(1, 1.0, 0.0, generator))).all()
