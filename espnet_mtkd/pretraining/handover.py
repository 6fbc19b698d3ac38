"""Is the encoder of stage 1 taken over whole by the ASR model of stage 2?

ESPnet's `--init_param` leaves a parameter that the file lacks at its random value and
says nothing; and weights that fit are worth nothing on other features, or in an encoder
of other layers. So both are proved before the second training begins.
"""

import argparse
import shlex
from pathlib import Path

import soundfile
import torch
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.pretraining.task import take_student
from espnet_mtkd.student.build import (
    build_student,
    encoder_choices,
    frontend_choices,
)
from espnet_mtkd.student.compare import COMPARED, differing_fields
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


def stage2_config(asr_config: Path, asr_args: str = "") -> dict:
    """What stage 2 is configured by: its config, and what its command line changes.

    Args:
        asr_config: config of stage 2.
        asr_args: arguments of `espnet2.bin.asr_train`; those of front end, normaliser
            and encoder are used.

    Raises:
        ConfigError: no such config, or something else in it.
    """
    config = read_yaml(asr_config)
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    for choices in COMPARED:
        name = f"--{choices.name}"
        parser.add_argument(name, type=str_or_none)
        parser.add_argument(f"{name}_conf", action=NestedDictAction)
    conf_keys = {f"{choices.name}_conf" for choices in COMPARED}
    # An option of a section changes what the config says of it.
    given = argparse.Namespace(
        **{k: dict(v) for k, v in config.items() if k in conf_keys and v}
    )
    for key in conf_keys - set(vars(given)):
        setattr(given, key, {})
    given, _ = parser.parse_known_args(shlex.split(asr_args), given)
    return {**config, **vars(given)}


def check_config(mtkd_args: dict, config: dict) -> list[str]:
    """Lines of `differing_fields` of stage 1 and 2, ESPnet's default classes named.

    Args:
        mtkd_args: of stage 1's `config.yaml`.
        config: of `stage2_config`.
    """
    named = {c.name: c.default for c in (frontend_choices, encoder_choices)}
    return differing_fields(mtkd_args, {**named, **config})


def student_args(mtkd_config: Path, config: dict, where: Path) -> argparse.Namespace:
    """Arguments of the student as stage 2 will build it, with stage 1's normaliser.

    Args:
        mtkd_config: `config.yaml` of stage 1.
        config: of `stage2_config`.
        where: it was read, for messages.

    Raises:
        ConfigError: no such config, or an encoder that stage 1 has not.
    """
    if not mtkd_config.is_file():
        raise ConfigError(f"no such config: {mtkd_config}: run stage 9 first")
    args = argparse.Namespace(**read_yaml(mtkd_config))
    take_student(args, config, where)
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
    h_BTD = encoder(feats, lengths)[0]
    return h_BTD[0] if isinstance(h_BTD, tuple) else h_BTD  # with interctc_layer_idx


def check_handover(
    checkpoint: Path,
    mtkd_config: Path,
    asr_config: Path,
    audio: str,
    asr_args: str = "",
) -> int:
    """Prove that stage 2 begins with stage 1's encoder, and the features it knows.

    Args:
        checkpoint: `.pth` of stage 1.
        mtkd_config: `config.yaml` of stage 1.
        asr_config: config of stage 2.
        audio: one utterance, on which both encoders must agree to the last bit.
        asr_args: see `stage2_config`.

    Returns:
        Number of tensors handed over.

    Raises:
        ConfigError: a field of front end, normaliser or encoder is another one; keys
            are missing, unexpected or of another shape (the first five of each are
            named); or the outputs differ.
    """
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    state = load_encoder_state(checkpoint)
    config = stage2_config(asr_config, asr_args)
    args = student_args(mtkd_config, config, asr_config)
    encoder = build_student(args)[-1]
    problems = check_config(read_yaml(mtkd_config), config)
    problems += compare_keys(state, encoder.state_dict())
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
