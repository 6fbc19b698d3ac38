"""What happens to a waveform: noises, a room, a level. Arrays in, arrays out.

Waveforms are (N,) float32; random numbers come from the generator that is given.
"""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal


def power(wave_N: np.ndarray) -> float:
    """Mean square."""
    return float(np.mean(np.square(wave_N, dtype=np.float64)))


def is_audible(value: float) -> bool:
    """Whether a power is one that can be scaled: above 0, and finite."""
    return bool(np.isfinite(value)) and value > 0


def mix(speech_N: np.ndarray, noise_N: np.ndarray, snr: float) -> np.ndarray:
    """Speech with noise added.

    Args:
        speech_N, noise_N: of one length.
        snr: ratio of their mean powers over that length, in dB.

    Returns:
        (N,); the speech as it is where one of the two is silent, or not finite.
    """
    powers = power(speech_N), power(noise_N)
    if not all(map(is_audible, powers)):
        return speech_N
    factor = np.sqrt(powers[0] / powers[1]) * 10 ** (-snr / 20)
    return speech_N + (factor * noise_N).astype(np.float32)


def coloured_noise(
    num_samples: int, exponent: float, generator: np.random.Generator
) -> np.ndarray:
    """Noise whose power falls with frequency as 1 / f ** exponent; nothing at 0 Hz.

    Args:
        num_samples: N.
        exponent: 0 white, 1 pink (3 dB an octave), 2 brown (6 dB an octave).
        generator: of the random spectrum.
    """
    size = scipy.fft.next_fast_len(max(num_samples, 2), real=True)
    num_bins = size // 2 + 1
    spectrum = generator.standard_normal((2, num_bins), dtype=np.float32)
    spectrum = spectrum[0] + 1j * spectrum[1]
    spectrum[0] = 0.0
    spectrum[1:] *= np.arange(1, num_bins, dtype=np.float32) ** (-exponent / 2)
    return scipy.fft.irfft(spectrum, size)[:num_samples].astype(np.float32)


def room_response(
    num_samples: int, decay: float, direct: float, generator: np.random.Generator
) -> np.ndarray:
    """Impulse response of an imagined room: noise that decays exponentially (Polack).

    The direct path is the first sample, 1, so that nothing is moved in time.

    Args:
        num_samples: length of the response, direct path included.
        decay: samples in which the reverberation falls by 60 dB.
        direct: energy of the direct path over that of the reverberation, in dB.
        generator: of the noise.
    """
    response = generator.standard_normal(num_samples, dtype=np.float32)
    response *= 10.0 ** (-3.0 * np.arange(num_samples) / decay)
    response[0] = 0.0
    energy = float(np.sum(np.square(response, dtype=np.float64)))
    if energy > 0:
        response *= 10 ** (-direct / 20) / np.sqrt(energy)
    response[0] = 1.0
    return response


def in_room(speech_N: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Speech as a room sends it back; (N,), its end cut off."""
    wave = scipy.signal.fftconvolve(speech_N, response)[: len(speech_N)]
    return wave.astype(np.float32)


def babble(voices: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of several voices, (N,) each, that are equally loud; silent ones are none."""
    total = np.zeros_like(voices[0])
    for voice in voices:
        level = power(voice)
        if is_audible(level):
            total += voice / np.float32(np.sqrt(level))
    return total
