"""Is the encoder of stage 1 taken over whole by the ASR model of stage 2?

ESPnet's `--init_param` leaves a parameter that the file lacks at its random value and
says nothing, so this is proved before the second training begins.
"""

import argparse
from pathlib import Path

import soundfile
import torch
import yaml

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.task import read_student_config
from espnet_mtkd.student.build import build_student
from espnet_mtkd.student.weights import compare_keys, read_pth


def load_encoder_state(checkpoint: Path) -> dict:
    """The `encoder.` part of a checkpoint, without that prefix.

    Raises:
        ConfigError: no such file, or nothing named `encoder.` in it.
    """
    if not checkpoint.is_file():
        raise ConfigError(f"no such checkpoint: {checkpoint}: run stage 9 first")
    state = {
        k.removeprefix("encoder."): v
        for k, v in read_pth(checkpoint).items()
        if k.startswith("encoder.")
    }
    if not state:
        raise ConfigError(f"{checkpoint}: no key begins with 'encoder.'")
    return state


def student_args(mtkd_config: Path, asr_config: Path) -> argparse.Namespace:
    """Arguments of the student as stage 2 will build it, with stage 1's normaliser.

    Raises:
        ConfigError: no such config, or an encoder that stage 1 has not.
    """
    if not mtkd_config.is_file():
        raise ConfigError(f"no such config: {mtkd_config}: run stage 9 first")
    args = argparse.Namespace(**yaml.safe_load(mtkd_config.read_text("utf-8")))
    args.student_config = asr_config
    read_student_config(args)
    args.specaug = None
    return args


@torch.no_grad()
def encode(args: argparse.Namespace, load, speech: torch.Tensor) -> torch.Tensor:
    """Encoder output (1, T, D) of one utterance (N,); `load(encoder)` sets weights."""
    frontend, _, normalize, encoder = build_student(args)
    load(encoder)
    for module in (frontend, encoder):
        module.eval()
    feats, lengths = frontend(speech[None], torch.tensor([len(speech)]))
    if normalize is not None:
        feats, lengths = normalize(feats, lengths)
    return encoder(feats, lengths)[0]


def check_handover(
    checkpoint: Path, mtkd_config: Path, asr_config: Path, audio: str
) -> int:
    """Prove that stage 2 begins with stage 1's encoder.

    Args:
        checkpoint: `.pth` of stage 1.
        mtkd_config: `config.yaml` of stage 1.
        asr_config: config of stage 2.
        audio: one utterance, on which both encoders must agree to the last bit.

    Returns:
        Number of tensors handed over.

    Raises:
        ConfigError: keys are missing, unexpected or of another shape (the first five
            of each are named), or the outputs differ.
    """
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    state = load_encoder_state(checkpoint)
    args = student_args(mtkd_config, asr_config)
    encoder = build_student(args)[-1]
    problems = compare_keys(state, encoder.state_dict())
    if problems:
        raise ConfigError(
            f"{checkpoint}: its encoder is not the one of {asr_config}:\n  "
            + "\n  ".join(problems)
            + "\nTrain stage 1 with this --asr_config, or take the one it was trained "
            "with"
        )
    speech = torch.from_numpy(soundfile.read(audio, dtype="float32")[0])
    before = encode(args, lambda encoder: encoder.load_state_dict(state), speech)

    def by_init_param(encoder):
        holder = torch.nn.Module()
        holder.encoder = encoder
        load_pretrained_model(f"{checkpoint}:encoder:encoder", holder, False)

    after = encode(args, by_init_param, speech)
    if not torch.equal(before, after):
        raise ConfigError(
            f"{checkpoint}: the encoder's output changes in the hand-over: expected "
            f"bit-equal, found a difference of {(before - after).abs().max():.3g}"
        )
    return len(state)
