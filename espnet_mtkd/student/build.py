"""The student's parts: which classes a config may name, and how they are built."""

import argparse

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.train.class_choices import ClassChoices

from espnet_mtkd.errors import ConfigError

frontend_choices = ClassChoices(
    "frontend",
    classes=dict(default=DefaultFrontend),
    type_check=AbsFrontend,
    default="default",
)
specaug_choices = ClassChoices(
    "specaug",
    classes=dict(specaug=SpecAug),
    type_check=AbsSpecAug,
    default=None,
    optional=True,
)
normalize_choices = ClassChoices(
    "normalize",
    classes=dict(global_mvn=GlobalMVN, utterance_mvn=UtteranceMVN),
    type_check=AbsNormalize,
    default="utterance_mvn",
    optional=True,
)
encoder_choices = ClassChoices(
    "encoder",
    classes=dict(
        conformer=ConformerEncoder,
        contextual_block_conformer=ContextualBlockConformerEncoder,
    ),
    type_check=AbsEncoder,
    default="conformer",
)


def build_student(args: argparse.Namespace):
    """Frontend, SpecAugment, normalisation and encoder from ESPnet's arguments.

    Args:
        args: with `frontend`, `frontend_conf`, `specaug`, ... as ESPnet names them.

    Returns:
        (frontend, specaug or None, normalize or None, encoder).

    Raises:
        ConfigError: a key that the class does not have.
    """

    def build(choices, **extra):
        name = getattr(args, choices.name)
        if name is None:
            return None
        conf = getattr(args, f"{choices.name}_conf")
        return construct(f"{choices.name}_conf", choices.get_class(name), conf, **extra)

    frontend = build(frontend_choices)
    specaug = build(specaug_choices)
    normalize = build(normalize_choices)
    encoder = build(encoder_choices, input_size=frontend.output_size())
    return frontend, specaug, normalize, encoder


def construct(where: str, factory, conf: dict, **extra) -> torch.nn.Module:
    """An object of a config's section.

    Args:
        where: name of the section, for the message.
        factory: the class.
        conf: the section, its keyword arguments.
        extra: further ones.

    Raises:
        ConfigError: a key that the class has not, a value, or a file in it.
    """
    try:
        return factory(**extra, **conf)
    # An unknown key, a value, a file; ESPnet asserts many of its values.
    except (TypeError, ValueError, OSError, AssertionError) as e:
        raise ConfigError(
            f"{where}: {e or 'values that do not go together'}: found {conf}"
        ) from e
