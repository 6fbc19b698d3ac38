"""The student's noisy audio beside the clean one, in the loader's workers."""

import argparse
from pathlib import Path

from espnet2.iterators.abs_iter_factory import AbsIterFactory

from espnet_mtkd.augment.ears import NoisyEars
from espnet_mtkd.augment.noise_files import check_noises, find_noises
from espnet_mtkd.augment.noise_options import (
    SECTION,
    NoiseOptions,
    parse_noise_options,
)
from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.datasets import data_set_name


def check_noise(args: argparse.Namespace) -> None:
    """Refuse a `noise_conf` that cannot be followed, before audio is loaded.

    Args:
        args: ESPnet's arguments.

    Raises:
        ConfigError: see `parse_noise_options`; or a loader that makes no noise. While
            statistics are collected, hours before the training, see `list_noises` too.
    """
    options = parse_noise_options(args.noise_conf)
    if getattr(args, "collect_stats", False):
        list_noises(options)
    if options.prob == 0:
        return
    if getattr(args, "multiple_iterator", False):
        raise ConfigError(
            f"{SECTION}: expected prob 0 with --multiple_iterator, whose parts do not "
            f"know the training's other audio, found {options.prob}: leave "
            "--multiple_iterator out, or set prob to 0"
        )
    if not args.train_data_path_and_name_and_type:
        raise ConfigError(
            f"{SECTION}: expected prob 0 under ESPnet3, which loads audio by itself, "
            f"found {options.prob}: train by espnet_mtkd.bin.mtkd_train"
        )


def list_noises(options: NoiseOptions) -> list[str]:
    """Files of `noise_dir`, their headers looked at; none without it.

    Raises:
        ConfigError: see `find_noises` and `check_noises`.
    """
    noises = [] if options.noise_dir is None else find_noises(options.noise_dir)
    check_noises(noises)
    return noises


def build_ears(args: argparse.Namespace) -> NoisyEars | None:
    """What disturbs the student's audio in this training; None where nothing does.

    Args:
        args: ESPnet's arguments.

    Raises:
        ConfigError: see `list_noises` and `NoisyEars`.
        DataError: see `read_wav_scp` and `read_lengths`.
    """
    options = parse_noise_options(args.noise_conf)
    if options.prob == 0:
        return None
    noises = list_noises(options)
    return NoisyEars(options, args.seed, training_audio(args), noises)


def training_audio(args: argparse.Namespace) -> dict[str, str]:
    """`<data set>/<id>` -> file of all audio that is trained on, without text too.

    Args:
        args: ESPnet's arguments.

    Raises:
        DataError: see `read_wav_scp` and `read_lengths`.
    """
    scp = args.train_data_path_and_name_and_type[0][0]
    sets = [(scp, args.train_shape_file[0] if args.train_shape_file else None)]
    sets += zip(args.unlabelled_wav_scp, args.unlabelled_shape_file, strict=True)
    audio = {}
    for scp, shape_file in sets:
        name, paths = data_set_name(scp), read_wav_scp(Path(scp))
        # The file of lengths has the utterances that are trained on, and no others.
        utts = paths if shape_file is None else read_lengths(Path(shape_file))
        audio.update({f"{name}/{utt}": paths[utt] for utt in utts if utt in paths})
    return audio


class EpochIterFactory(AbsIterFactory):
    """Lets a factory's `NamedCollateFn` know the epoch that its batches are of.

    Args:
        factory: ESPnet's, of batches for training.
    """

    def __init__(self, factory):
        self.factory = factory

    def build_iter(self, epoch: int, shuffle: bool | None = None):
        """Iterator of one epoch, with a collate function of its own.

        Args:
            epoch: from 1.
            shuffle: as ESPnet's.
        """
        self.factory.collate_fn = self.factory.collate_fn.at(epoch)
        return self.factory.build_iter(epoch, shuffle)
