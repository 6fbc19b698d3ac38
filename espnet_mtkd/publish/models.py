"""How a packed model is decoded, and the proof that stock ESPnet takes it."""

import argparse
import contextlib
import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.publish.facts import TestResult
from espnet_mtkd.results.commands import argument
from espnet_mtkd.student.weights import compare_keys


def decoding_options(config: Path | None, args: str) -> dict:
    """Arguments of `Speech2Text` that differ from its defaults, as stage 12 decodes.

    Args:
        config: of `asr_inference`.
        args: further arguments for it.
    """
    words = ["--output_dir", "", "--data_path_and_name_and_type", "a,b,c"]
    words += ["--config", str(config)] if config else []
    return _options([*words, *shlex.split(args)])


def _options(words: Sequence[str]) -> dict:
    from espnet2.bin.asr_inference import Speech2Text, get_parser

    chosen = vars(get_parser().parse_args(words))
    parameters = inspect.signature(Speech2Text.__init__).parameters
    return {
        k: chosen[k]
        for k, p in parameters.items()
        if k in chosen and chosen[k] != p.default and not k.endswith(("file", "config"))
    }


def scored_options(
    results: Sequence[TestResult], given: dict | None, root: Path
) -> dict:
    """The arguments by which the scores were made.

    Args:
        results: with the arguments that the logs have.
        given: what the user says they are; None: nothing.
        root: what a config's path starts from.

    Raises:
        ConfigError: the log of a decoding has others.
    """
    for result in results:
        config = argument(result.arguments, "config")
        is_gone = config is not None and not (root / config).is_file()
        if result.is_streamed or result.arguments is None or is_gone:
            continue
        words = list(result.arguments)
        if config is not None:  # after the last one that the log has
            words += ["--config", str(root / config)]
        scored = _options(words)
        if given is None:
            given = scored
        if given != scored:
            raise ConfigError(
                f"--inference_config, --inference_args: expected {scored}, by which "
                f"'{result.dset}' was decoded as the log in {result.decoding} says, "
                f"found {given}"
            )
    return given or {}


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
