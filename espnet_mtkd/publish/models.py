"""How a packed model is decoded, and the proof that stock ESPnet takes it."""

import argparse
import contextlib
import inspect
import shlex
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.student.weights import compare_keys


def decoding_options(config: Path | None, args: str) -> dict:
    """Arguments of `Speech2Text` that differ from its defaults, as stage 12 decodes.

    Args:
        config: of `asr_inference`.
        args: further arguments for it.
    """
    from espnet2.bin.asr_inference import Speech2Text, get_parser

    command = ["--output_dir", "", "--data_path_and_name_and_type", "a,b,c"]
    command += ["--config", str(config)] if config else []
    chosen = vars(get_parser().parse_args([*command, *shlex.split(args)]))
    parameters = inspect.signature(Speech2Text.__init__).parameters
    return {
        k: chosen[k]
        for k, p in parameters.items()
        if k in chosen and chosen[k] != p.default and not k.endswith(("file", "config"))
    }


def check_loads(config: Path, state: dict, stage_dir: Path) -> int:
    """Build the model by stock ESPnet, from the packed config.

    Returns:
        Number of parameters.

    Raises:
        ConfigError: weights are missing, left over or of another shape, which ESPnet's
            own loading (not strict) would not tell.
    """
    from espnet2.tasks.asr import ASRTask

    args = argparse.Namespace(**read_yaml(config))
    with contextlib.chdir(stage_dir):
        model = ASRTask.build_model(args)
    problems = compare_keys(state, model.state_dict())
    if problems:
        raise ConfigError(
            f"the weights are not those of {config.name}:\n  " + "\n  ".join(problems)
        )
    return sum(p.numel() for p in model.parameters())


def check_encoder(encoder: dict, transducer: dict, mtkd_exp: Path) -> None:
    """Refuse a stage 1 whose encoder is not the transducer's.

    Raises:
        ConfigError: with what stands between the two.
    """
    problems = compare_keys(
        *(
            {k: v for k, v in state.items() if k.startswith("encoder.")}
            for state in (encoder, transducer)
        )
    )
    if problems:
        raise ConfigError(
            f"{mtkd_exp}: its encoder is not the transducer's:\n  "
            + "\n  ".join(problems)
            + "\nName the stage 1 that this student began with"
        )
