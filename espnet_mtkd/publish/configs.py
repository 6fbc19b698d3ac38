"""Configs as they are published: what stock ESPnet knows, nothing of this machine,
paths relative to the archive."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.publish.traces import scalars

# What tells where and how a training ran, not what the model is.
MACHINE_KEYS = {
    "resume",
    "init_param",
    "pretrain_path",
    "deepspeed_config",
    "rir_scp",
    "noise_scp",
    "local_rank",
    "train_shape_file",
    "valid_shape_file",
    "train_data_path_and_name_and_type",
    "valid_data_path_and_name_and_type",
}
MACHINE_PREFIXES = ("dist_", "wandb_")
# Of stage 1: what the encoder is, and what it learnt.
ENCODER_KEYS = (
    *("frontend", "frontend_conf", "normalize", "normalize_conf"),
    *("encoder", "encoder_conf", "teachers", "align", "target_delay", "target_type"),
    *("loss_conf", "objective_conf", "max_epoch", "version"),
)
FILE_KEYS = ("bpemodel", "stats_file", "non_linguistic_symbols")


def read_config(model_dir: Path, stage: int) -> dict:
    """`config.yaml` of an experiment.

    Raises:
        ConfigError: no such directory, or no config in it.
    """
    path = model_dir / "config.yaml"
    if not path.is_file():
        what = "no config.yaml in it" if model_dir.is_dir() else "no such directory"
        raise ConfigError(f"{model_dir}: {what}: run stage {stage} first")
    return read_yaml(path)


def check_stock_classes(config: dict, where: Path) -> None:
    """Refuse a model that ESPnet alone cannot build.

    Raises:
        ConfigError: naming the key and the class that is not ESPnet's.
    """
    from espnet2.tasks.asr import ASRTask

    for choices in ASRTask.class_choices_list:
        name = config.get(choices.name, choices.default)
        known = choices.classes.get(name)
        if name is None or (known and not known.__module__.startswith("espnet_mtkd")):
            continue
        raise ConfigError(
            f"{where}: {choices.name}: expected a class of stock ESPnet, found "
            f"'{name}': who downloads this model could not load it. Publish a student, "
            "not the teacher transducer"
        )


def stock_defaults() -> dict:
    """ESPnet's defaults of `asr_train`, without the keys that it requires."""
    from espnet2.tasks.asr import ASRTask

    # ESPnet parses the command line of this process to find them.
    with mock.patch.object(sys, "argv", sys.argv[:1]):
        defaults = ASRTask.get_default_config()
    return {k: v for k, v in defaults.items() if k != "output_dir"}


def public_asr_config(config: dict) -> dict:
    """What stock ESPnet knows of a config; machine and data keys at their defaults."""
    public = {}
    for key, default in stock_defaults().items():
        is_local = key in MACHINE_KEYS or key.startswith(MACHINE_PREFIXES)
        public[key] = default if is_local else config.get(key, default)
    if "version" in config:
        public["version"] = config["version"]
    return public


def _is_local(path_or_url: str) -> bool:
    return os.path.isabs(path_or_url) or os.path.exists(path_or_url)


def public_encoder_config(config: dict) -> dict:
    """What stage 1's encoder is and learnt; of teachers' checkpoints the name alone."""
    public = {k: config[k] for k in ENCODER_KEYS if k in config}
    public["teachers"] = [
        {
            k: Path(v).name if k == "path_or_url" and _is_local(v) else v
            for k, v in teacher.items()
            if v is not None
        }
        for teacher in config.get("teachers", [])
    ]
    return public


def _replace(value, change: Callable[[str], str]):
    if isinstance(value, dict):
        return {
            k: v if k == "token_list" else _replace(v, change) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_replace(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


class ArchivePaths:
    """Where the files of a model go in the archive.

    A file below the recipe's directory keeps its path; one from elsewhere goes to
    `exp/<name of its directory>/`. ESPnet's downloader replaces every string of a
    config that equals the path of a file OR directory of the archive, tokens included:
    where a token is called `exp` or `data`, the directory gets another name. (ESPnet's
    default `brctc_risk_strategy: exp` is changed so in every published model; only
    `ctc_type: brctc` reads it.)

    Attributes:
        files: path on this machine -> path in the archive.
    """

    def __init__(self, root: Path, tokens: set[str]):
        self.root = root.absolute()
        self.tokens = tokens
        self.files: dict[Path, str] = {}

    def place(self, path: Path, folder: str | None = None) -> str:
        """Add a file; its path in the archive, below `folder` if that is given."""
        name = os.path.relpath(path.absolute(), self.root)
        if folder is not None:
            name = f"{folder}/{path.name}"
        elif name.startswith(".."):
            name = f"exp/{path.absolute().parent.name}/{path.name}"
        top, _, rest = name.partition("/")
        while top in self.tokens:
            top += "_"
        self.files[path] = f"{top}/{rest}" if rest else top
        return self.files[path]

    def place_named_files(self, config: dict, where: Path) -> dict:
        """Add all files that a config names; the config with their archive paths.

        Raises:
            DataError: statistics, tokeniser or symbols that are named and not there.
        """
        for key, value in scalars(config):
            if (
                key.rpartition(".")[2] in FILE_KEYS
                and not (self.root / value).is_file()
            ):
                raise DataError(
                    f"{where}: {key}: no such file: {value}: the model cannot be used "
                    "without it. Run this in the recipe's directory, or the stage that "
                    "makes it (5: tokens, 6: statistics)"
                )

        def change(value: str) -> str:
            is_file = bool(value) and (self.root / value).is_file()
            return self.place(self.root / value) if is_file else value

        return _replace(config, change)
