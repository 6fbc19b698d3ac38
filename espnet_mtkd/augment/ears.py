"""What the student hears of an utterance whose teachers hear it clean."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from espnet_mtkd.augment.noise_files import read_part
from espnet_mtkd.augment.noise_options import SECTION, NoiseOptions
from espnet_mtkd.augment.waves import (
    babble,
    coloured_noise,
    in_room,
    mix,
    room_response,
)
from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError


class NoisyEars:
    """Disturbs an utterance: a room, then one noise, then another level.

    What becomes of it depends on seed, epoch and utterance alone, and on the files: not
    on the batch, nor on the worker or process that loads it.

    Args:
        options: how often and how much.
        seed: of the training.
        audio: utterance -> file of all audio of the training, for babble.
        noises: files of `noise_dir`.

    Raises:
        ConfigError: babble, and not two utterances.
    """

    def __init__(
        self,
        options: NoiseOptions,
        seed: int,
        audio: Mapping[str, str],
        noises: Sequence[str] = (),
    ):
        if options.babble > 0 and len(audio) < 2:
            raise ConfigError(
                f"{SECTION}.babble: expected at least two utterances of training data, "
                f"as babble is made of others, found {len(audio)}: set it to 0"
            )
        self.options = options
        self.seed = seed
        self.audio = list(audio.items())
        self.noises = list(noises)

    def __call__(self, utt: str, speech_N: np.ndarray, epoch: int) -> np.ndarray:
        """What the student hears.

        Args:
            utt: `<data set>/<id>`.
            speech_N: (N,) float32 at 16 kHz. Other shapes, and samples that are not
                finite, are given back for the trainer to refuse.
            epoch: from 1.

        Returns:
            (N,) float32, frame by frame beside the speech; finite, may go beyond 1.

        Raises:
            DataError: a file that is to be heard as noise cannot be read.
        """
        if speech_N.ndim != 1 or not np.isfinite(speech_N).all():
            return speech_N
        options, generator = self.options, self._generator(utt, epoch)
        if generator.random() >= options.prob:
            return speech_N
        heard_N = speech_N.astype(np.float32)
        if generator.random() < options.room:
            heard_N = in_room(heard_N, self._response(generator))
        noise_N = self._noise(utt, len(heard_N), generator)
        if noise_N is not None:
            heard_N = mix(heard_N, noise_N, generator.uniform(*options.snr))
        return heard_N * np.float32(10 ** (generator.uniform(*options.gain) / 20))

    def _generator(self, utt: str, epoch: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed} {epoch} {utt}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))

    def _response(self, generator: np.random.Generator) -> np.ndarray:
        decay = SAMPLE_RATE * generator.uniform(*self.options.decay)
        direct = generator.uniform(*self.options.direct)
        return room_response(round(decay), decay, direct, generator)

    def _noise(self, utt: str, num_samples: int, generator: np.random.Generator):
        options, which = self.options, generator.random()
        if which < options.babble:
            low, high = options.voices
            num = generator.integers(low, high + 1)
            paths = [self._other(utt, generator) for _ in range(num)]
            return babble([read_part(p, num_samples, generator) for p in paths])
        which -= options.babble
        if which < options.colour:
            exponent = generator.uniform(*options.slope)
            return coloured_noise(num_samples, exponent, generator)
        if which - options.colour < options.files:
            path = self.noises[generator.integers(len(self.noises))]
            return read_part(path, num_samples, generator)
        return None

    def _other(self, utt: str, generator: np.random.Generator) -> str:
        while True:
            other, path = self.audio[generator.integers(len(self.audio))]
            if other != utt:
                return path
