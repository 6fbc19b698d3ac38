"""How often, and how much, the student's audio is disturbed: `noise_conf`."""

import dataclasses
from collections.abc import Mapping

from espnet_mtkd.augment.sections import number, number_range, read_section
from espnet_mtkd.errors import ConfigError, shown

SECTION = "noise_conf"


@dataclasses.dataclass(frozen=True)
class NoiseOptions:
    """Off where `prob` is 0. Ranges are drawn from uniformly, for each utterance.

    What is done and how often follows RobustDistiller (arXiv 2403.08654), whose
    students hear noise and rooms where their teachers hear clean speech; the numbers of
    voices are those of Kaldi's recipes with MUSAN.

    Attributes:
        prob: share of the utterances that are disturbed at all, in each epoch anew.
        snr: dB, of the mean powers of speech (in its room) and noise.
        babble: share, of the disturbed, with other utterances of the training behind
            them.
        voices: utterances in a babble.
        colour: share, of the disturbed, with coloured noise behind them.
        slope: e, where the power of coloured noise falls as 1 / f ** e: 0 white, 1
            pink, 2 brown.
        files: share, of the disturbed, with a file of `noise_dir` behind them. An
            utterance has one of the three noises, or none.
        noise_dir: folder that is searched for audio files, with all folders in it.
        room: share, of the disturbed, that are sent through a synthetic room.
        decay: seconds in which the room's reverberation falls by 60 dB.
        direct: dB, energy of the direct sound over that of the reverberation.
        gain: dB, level of what comes out, for all that are disturbed. Peaks may go
            beyond 1: the features do not mind, and nothing is clipped.

    Raises:
        ConfigError: values that do not go together.
    """

    prob: float = number(0.0, 0.0, 1.0)
    snr: tuple = number_range((5.0, 20.0), -30.0, 100.0)
    babble: float = number(0.4, 0.0, 1.0)
    voices: tuple = number_range((3, 7), 1, 50)
    colour: float = number(0.2, 0.0, 1.0)
    slope: tuple = number_range((0.0, 2.0), -2.0, 4.0)
    files: float = number(0.0, 0.0, 1.0)
    noise_dir: str | None = None
    room: float = number(0.3, 0.0, 1.0)
    decay: tuple = number_range((0.1, 0.6), 0.01, 5.0)
    direct: tuple = number_range((0.0, 12.0), -20.0, 60.0)
    gain: tuple = number_range((-6.0, 6.0), -60.0, 60.0)

    def __post_init__(self):
        """Refuse what does not go together."""
        total = self.babble + self.colour + self.files
        if total > 1 + 1e-9:
            raise ConfigError(
                f"{SECTION}: expected babble, colour and files of 1 together, or less, "
                f"as an utterance has one of these noises: found {total:g}"
            )
        if self.noise_dir is not None and not isinstance(self.noise_dir, str):
            raise ConfigError(
                f"{SECTION}.noise_dir: expected a folder, found {shown(self.noise_dir)}"
            )
        if (self.files > 0) != (self.noise_dir is not None):
            found = "noise_dir alone" if self.noise_dir else "files alone"
            raise ConfigError(
                f"{SECTION}: expected files (the share of utterances that get a file) "
                f"and noise_dir together, or none of them, found {found}"
            )


def parse_noise_options(conf: Mapping | None) -> NoiseOptions:
    """Read `noise_conf`.

    Raises:
        ConfigError: see `read_section` and `NoiseOptions`.
    """
    return read_section(SECTION, NoiseOptions, conf)
