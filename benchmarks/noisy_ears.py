"""What noise for the student's ears costs a loader's worker.

    python benchmarks/noisy_ears.py [--wav_scp <data directory>/wav.scp]

One core, no worker: milliseconds of processor time for each second of audio, to read an
utterance and for each kind of noise beside. Without a wav.scp the utterances are white
noise of 2 to 6 seconds, as FLAC.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.augment.ears import NoisyEars
from espnet_mtkd.augment.noise_options import NoiseOptions
from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.data.kaldi import read_wav_scp

QUIET = dict(prob=1.0, babble=0.0, colour=0.0, room=0.0)
KINDS = {
    "babble": NoiseOptions(**{**QUIET, "babble": 1.0}),
    "colour": NoiseOptions(**{**QUIET, "colour": 1.0}),
    "room": NoiseOptions(**{**QUIET, "room": 1.0}),
    "level alone": NoiseOptions(**QUIET),
    "all, as by default, prob 1": NoiseOptions(prob=1.0),
}


def write_audio(folder: Path, num_utts: int = 100) -> dict[str, str]:
    """Utterance -> file, of noise."""
    generator = np.random.default_rng(0)
    paths = {}
    for i in range(num_utts):
        samples = generator.integers(2 * SAMPLE_RATE, 6 * SAMPLE_RATE)
        wave = 0.1 * generator.standard_normal(samples)
        paths[f"x/{i}"] = str(folder / f"{i}.flac")
        soundfile.write(paths[f"x/{i}"], wave, SAMPLE_RATE)
    return paths


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wav_scp", type=Path)
    parser.add_argument("--num_utts", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        audio = (
            read_wav_scp(args.wav_scp) if args.wav_scp else write_audio(Path(folder))
        )
        utts = list(itertools.islice(itertools.cycle(audio), args.num_utts))
        start = time.process_time()
        waves = [soundfile.read(audio[u], dtype="float32")[0] for u in utts]
        seconds = sum(map(len, waves)) / SAMPLE_RATE
        print(f"{'reading':28} {1000 * (time.process_time() - start) / seconds:6.2f}")
        for name, options in KINDS.items():
            ears = NoisyEars(options, 0, audio)
            start = time.process_time()
            for i, (utt, wave) in enumerate(zip(utts, waves, strict=True)):
                ears(utt, wave, i)
            cost = 1000 * (time.process_time() - start) / seconds
            print(f"{name:28} {cost:6.2f}")


if __name__ == "__main__":
    main()
