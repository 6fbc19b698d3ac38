"""How short an utterance a student takes, by its config: no model is built."""

from pathlib import Path

from espnet_mtkd.data.kaldi import read_lengths
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import read_yaml

# Kernel and stride in time of the convolutions of ESPnet's input layers
INPUT_LAYERS = {
    "conv2d": ((3, 2), (3, 2)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
MIN_FRAMES = 2  # of one alone batch normalisation has no variance
NUM_NAMED = 10


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
    num = num_frames
    for kernel, stride in reversed(INPUT_LAYERS[layer]):
        num = (num - 1) * stride + kernel
    return (num - 1) * (config.get("frontend_conf") or {}).get("hop_length", 128)


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
        short = {u: n for u, n in read_lengths(path).items() if n < least}
        if short:
            shown = ", ".join(f"{u} ({n})" for u, n in list(short.items())[:NUM_NAMED])
            raise DataError(
                f"{path}: {len(short)} utterances have fewer than {least} samples, of "
                f"which the student of {config_file} makes {MIN_FRAMES} frames: {shown}"
                f": leave them out: --min_wav_duration {least / 16000 + 0.001:.3f}"
            )
