"""How short an utterance a student takes, by its config: no model is built."""

from pathlib import Path

from espnet_mtkd.data.kaldi import read_lengths
from espnet_mtkd.errors import DataError, name_ten
from espnet_mtkd.files import read_yaml
from espnet_mtkd.student.grid import FrameGrid

# Kernel and stride in time of the convolutions of ESPnet's input layers
INPUT_LAYERS = {
    "linear": (),
    "conv2d": ((3, 2), (3, 2)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
MIN_FRAMES = 2  # of one alone batch normalisation has no variance


def least_samples(config: dict, num_frames: int = MIN_FRAMES) -> int | None:
    """Samples of which a student makes so many frames, by its config.

    Args:
        config: of stage 2.
        num_frames: encoder frames.

    Returns:
        Samples (16 kHz); None for a front end or input layer that is not known here.
    """
    layer = (config.get("encoder_conf") or {}).get("input_layer", "conv2d")
    if config.get("frontend", "default") != "default" or layer not in INPUT_LAYERS:
        return None
    conf = config.get("frontend_conf") or {}
    half_window = conf.get("n_fft", 512) // 2
    grid = FrameGrid(
        hop=conf.get("hop_length", 128),
        half_window=half_window,
        first=0 if conf.get("center", True) else half_window,
        convolutions=INPUT_LAYERS[layer],
    )
    return grid.least_samples(num_frames)


def check_lengths(config_file: Path, lengths_files: list[Path]) -> None:
    """Refuse utterances that are too short for a student, before it is trained.

    Args:
        config_file: of stage 2.
        lengths_files: `utt2num_samples` of training and validation set.

    Raises:
        ConfigError: no such config.
        DataError: naming the first ten, and what is to be done.
    """
    least = least_samples(read_yaml(config_file))
    for path in lengths_files if least else []:
        refuse_short(path, read_lengths(path), least, str(config_file))


def refuse_short(
    where: Path, lengths: dict[str, int], least: int, student: str
) -> None:
    """Refuse utterances of fewer samples than a student takes.

    Args:
        where: the lengths stand.
        lengths: utterance -> samples.
        least: of `least_samples`.
        student: whose, for the message.

    Raises:
        DataError: naming the first ten, and what is to be done.
    """
    short = [f"{u} ({n})" for u, n in lengths.items() if n < least]
    if short:
        raise DataError(
            f"{where}: {len(short)} utterances have fewer than {least} samples, of "
            f"which the student of {student} makes {MIN_FRAMES} frames: "
            f"{name_ten(short)}: leave them out: --min_wav_duration "
            f"{least / 16000 + 0.001:.3f}"
        )
