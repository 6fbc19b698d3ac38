"""Use a student's encoder elsewhere: waveforms in, embeddings out.

from espnet_mtkd.student import load_student
student = load_student("exp/mtkd_x")
embeddings, lengths = student(waveforms, num_samples)
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.student.blocks import BlockOutputs
from espnet_mtkd.student.build import (
    build_student,
    encoder_choices,
    frontend_choices,
    normalize_choices,
)
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.student.locate import find_files
from espnet_mtkd.student.weights import compare_keys, read_weights

PARTS = ("frontend", "normalize", "encoder")


def load_student(where: str | Path, device: str = "cpu") -> "Student":
    """The encoder of a student with what stands before it, in eval mode.

    Args:
        where: a folder of stage 1 or 2 (`config.yaml` and `valid.loss.*.pth`), a model
            file beside its `config.yaml`, a folder with what `espnet2.bin.pack` packed
            (`meta.yaml` at its root), or any of these folders on the Hugging Face Hub:
            `user/name`, `user/name/folder`, with `@revision` behind it or not.
            Safetensors are read in place of a `.pth` that they lie beside.
        device: where it runs.

    Raises:
        ConfigError: a file is missing, damaged or of another model, the model is no
            student of this package, or the Hub has it not.
        HubError: the Hub does not answer.
    """
    config_file, model_file = find_files(where)
    config = read_yaml(config_file)
    check_config(config, config_file)
    state = {
        name: value
        for name, value in read_weights(model_file).items()
        if name.partition(".")[0] in PARTS
    }
    student = Student(*build_parts(config, state, config_file))
    problems = compare_keys(state, student.state_dict())
    if problems:
        raise ConfigError(
            f"{model_file}: its tensors are not those of {config_file}:\n  "
            + "\n  ".join(problems)
            + "\nTake both from one training"
        )
    student.load_state_dict(state)
    return student.to(device).eval().requires_grad_(False)


class Student(nn.Module):
    """Frontend, normalisation and encoder: ESPnet's `encode` without SpecAugment.

    Args:
        frontend, normalize, encoder: ESPnet's, as `build_student` gives them.

    Raises:
        ConfigError: see `FrameGrid.of`.

    Attributes:
        dim: D, of the embeddings.
        frames: `FrameGrid`, where the frames lie in the audio.
        frame_shift: samples (16 kHz) between two frames.
        num_layers: hidden states that `layers=True` gives.
        min_samples: of an utterance; shorter ones are less than a frame.
        sample_rate: Hz.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, frontend: nn.Module, normalize: nn.Module | None, encoder):
        super().__init__()
        self.frontend = frontend
        self.normalize = normalize
        self.encoder = encoder
        self.dim = encoder.output_size()
        self.num_layers = len(encoder.encoders) + 1
        self.frames = FrameGrid.of(frontend, encoder)
        self.frame_shift = self.frames.shift
        self.min_samples = self.frames.least_samples()

    def forward(
        self, wav_BN, lengths_B=None, *, layers=False, sample_rate: int = SAMPLE_RATE
    ):
        """Embeddings of a batch.

        Args:
            wav_BN: (B, N) waveforms, floats from -1 to 1, padded with anything finite.
            lengths_B: (B,) samples (default: N of each).
            layers: give all hidden states, as SUPERB weights them.
            sample_rate: Hz of the waveforms; only 16000 is taken.

        Returns:
            Embeddings (B, T, D) and their lengths (B,), frames. With `layers`, a list
            in place of the first: the input of each block, and last the embeddings.
            As with ESPnet, an utterance's last frames depend on how it is padded.

        Raises:
            DataError: another sampling rate, shape or type, an empty batch, an
                utterance that is too short, or samples that are not finite.
        """
        device = next(self.encoder.parameters()).device
        wav_BN, lengths_B = check_batch(
            wav_BN, lengths_B, self.min_samples, sample_rate
        )
        lengths_B = lengths_B.to(device)
        wav_BN = wav_BN[:, : int(lengths_B.max())].to(device, torch.float32)
        with torch.autocast(device.type, enabled=False):
            feats, num_feats = self.frontend(wav_BN, lengths_B)
            if self.normalize is not None:
                feats, num_feats = self.normalize(feats, num_feats)
        below_last = range(len(self.encoder.encoders)) if layers else []
        with BlockOutputs(self.encoder, below_last) as blocks:
            h_BTD, lengths_B, _ = self.encoder(feats, num_feats)
        if isinstance(h_BTD, tuple):  # with interctc_layer_idx
            h_BTD = h_BTD[0]
        if not layers:
            return h_BTD, lengths_B
        return [*blocks.frames(h_BTD.size(1)), h_BTD], lengths_B

    def num_valid_frames(self, num_samples):
        """Frames whose features saw only real audio, whatever the padding.

        Args:
            num_samples: (B,) tensor.

        Returns:
            (B,) tensor of frames.
        """
        return self.frames.num_valid_frames(num_samples)


def check_batch(wav_BN, lengths_B, min_samples: int, sample_rate: int = SAMPLE_RATE):
    """Refuse what would give wrong embeddings, or none; see `Student.forward`.

    Returns:
        The batch, with lengths where there were none.
    """
    if sample_rate != SAMPLE_RATE:
        raise DataError(
            f"sample rate: expected {SAMPLE_RATE} Hz, found {sample_rate}: resample "
            "the audio (torchaudio.functional.resample)"
        )
    shape = tuple(wav_BN.shape)
    if len(shape) != 2 or shape[0] == 0 or not wav_BN.is_floating_point():
        raise DataError(
            "waveforms: expected floats of the shape (B, N) from -1 to 1, at least one "
            f"utterance, found {wav_BN.dtype} {shape}: one utterance is wav[None]; "
            "16-bit samples are divided by 32768"
        )
    if lengths_B is None:
        lengths_B = torch.full(shape[:1], shape[1])
    lengths_B = torch.as_tensor(lengths_B)
    if lengths_B.is_floating_point() or tuple(lengths_B.shape) != shape[:1]:
        raise DataError(
            f"lengths: expected {shape[0]} whole numbers of samples, found "
            f"{lengths_B.dtype} {tuple(lengths_B.shape)}"
        )
    finite = wav_BN.isfinite().all(1).tolist()
    for i, (num, is_finite) in enumerate(zip(lengths_B.tolist(), finite, strict=True)):
        if not min_samples <= num <= shape[1]:
            raise DataError(
                f"lengths: utterance {i} of the batch: expected {min_samples} (one "
                f"frame) to {shape[1]} samples, found {num}: leave it out"
            )
        if not is_finite:
            raise DataError(
                f"waveforms: utterance {i} of the batch has samples, or padding, that "
                "are NaN or infinite: repair the audio or leave it out"
            )
    return wav_BN, lengths_B


# ------------------------------------------------------------- config


def check_config(config: dict, where: Path) -> None:
    """Refuse a model that is none of this package's students.

    Args:
        config: of stage 1 or 2, as ESPnet saved it.
        where: it lies, for the message.

    Raises:
        ConfigError: with every problem found.
    """
    problems = []
    for choices in (frontend_choices, normalize_choices, encoder_choices):
        name = config.get(choices.name)
        expected = sorted(choices.classes) + [None] * choices.optional
        if name not in expected:
            problems.append(f"{choices.name}: expected one of {expected}, found {name}")
    for key in ("preencoder", "postencoder"):
        if config.get(key) is not None:
            problems.append(f"{key}: expected none, found {config[key]}")
    fs = (config.get("frontend_conf") or {}).get("fs", SAMPLE_RATE)
    if str(fs).lower() not in ("16000", "16k"):
        problems.append(f"frontend_conf.fs: expected {SAMPLE_RATE}, found {fs}")
    if problems:
        raise ConfigError(
            f"{where}: not the config of a student that this package trains:\n  "
            + "\n  ".join(problems)
        )


def write_statistics(state: dict, folder: Path, where: Path) -> Path:
    """A file from which ESPnet builds a `global_mvn`, whose values the state dict has.

    Args:
        state: tensors by name, `normalize.mean` among them.
        folder: where the file goes.
        where: the model's config lies, for the message.

    Raises:
        ConfigError: no statistics among the tensors.
    """
    mean = state.get("normalize.mean")
    if mean is None:
        raise ConfigError(
            f"{where}: normalize: global_mvn, but the model file has no "
            "normalize.mean: take both from one training"
        )
    stats = folder / "stats.npz"
    np.savez(stats, count=1, sum=mean.numpy(), sum_square=mean.numpy() ** 2)
    return stats


def build_parts(config: dict, state: dict, where: Path) -> tuple:
    """Frontend, normaliser (or None) and encoder of a saved config, random.

    Feature statistics are in the model file; the file that they came from is not asked
    for, so that a folder can be moved.

    Args:
        config: checked.
        state: tensors by name.
        where: the config lies, for the message.

    Raises:
        ConfigError: a key that a class has not, or a model file without statistics.
    """
    args = argparse.Namespace(specaug=None)
    for name in PARTS:
        setattr(args, name, config.get(name))
        setattr(args, f"{name}_conf", config.get(f"{name}_conf") or {})
    with tempfile.TemporaryDirectory() as folder:
        if args.normalize == "global_mvn":
            stats = write_statistics(state, Path(folder), where)
            args.normalize_conf = {**args.normalize_conf, "stats_file": str(stats)}
        try:
            frontend, _, normalize, encoder = build_student(args)
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}") from e
    return frontend, normalize, encoder
