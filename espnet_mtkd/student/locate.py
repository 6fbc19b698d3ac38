"""Where the config and the model file of a student are, in a folder or on the Hub."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from espnet_mtkd.errors import ConfigError, HubError
from espnet_mtkd.files import read_yaml

CONFIG = "config.yaml"
META = "meta.yaml"  # of a model that `espnet2.bin.pack` packed
# What a folder is asked for, in this order: of stage 1 what is handed over, of stage 2
# what is decoded.
STAGE1_FILES = ("valid.loss.best.pth", "valid.loss.ave.pth")
STAGE2_FILES = ("valid.loss.ave.pth", "valid.loss.best.pth")
# user/name, then a folder in it, then @revision
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)((?:/\w[\w.-]*)*)(?:@([\w./-]+))?")

# Path of a file by its name in a folder, None where it is not there.
Fetch = Callable[[str], Path | None]


def find_files(where: str | Path) -> tuple[Path, Path]:
    """Config and model file of a student; see `load_student`.

    Returns:
        Two paths on this machine. In place of the second, or beside it, there may be
        safetensors of its name.

    Raises:
        ConfigError: one of them is missing; the message says where it was expected.
        HubError: the Hub does not answer.
    """
    path = Path(where)
    if path.is_file():
        if path.suffix not in (".pth", ".safetensors"):
            raise ConfigError(
                f"{path}: expected a folder, a .pth or a .safetensors (an archive is "
                "unpacked first), found another file"
            )
        return path.with_name(CONFIG), path
    if path.is_dir():
        fetch = folder_fetcher(path)
    elif match := HUB_NAME.fullmatch(str(where)):
        fetch = hub_fetcher(*match.groups())
    else:
        raise ConfigError(
            f"{where}: no such folder or model file (looked from {Path.cwd()}), and no "
            "name of a repository, user/name, on the Hugging Face Hub"
        )
    if meta_file := fetch(META):
        return files_of_pack(where, read_yaml(meta_file), fetch)
    if config_file := fetch(CONFIG):
        config = read_yaml(config_file)
        for name in STAGE1_FILES if "teachers" in config else STAGE2_FILES:
            if model_file := fetch_weights(name, fetch):
                return config_file, model_file
        raise ConfigError(
            f"{where}: expected {' or '.join(STAGE1_FILES)}, or safetensors of that "
            "name, found neither: train it to its end, or name the model file in "
            "place of the folder"
        )
    raise ConfigError(
        f"{where}: expected {CONFIG} (a folder of stage 1 or 2) or {META} (a packed "
        "model), found neither"
    )


def files_of_pack(where, meta: dict, fetch: Fetch) -> tuple[Path, Path]:
    """Config and model file that the `meta.yaml` of a packed model names.

    Args:
        where: for the message.
        meta: its content.
        fetch: from the pack.

    Raises:
        ConfigError: no model with its config is named, or a file is not there.
    """
    configs, files = meta.get("yaml_files") or {}, meta.get("files") or {}
    # asr_train_config and asr_model_file, or those of another task
    tasks = [
        key.removesuffix("train_config")
        for key in configs
        if key.endswith("train_config")
        and key.removesuffix("train_config") + "model_file" in files
    ]
    if len(tasks) != 1:
        raise ConfigError(
            f"{where}: {META}: expected one <task>_train_config with its "
            f"<task>_model_file, found {sorted([*configs, *files])}"
        )
    config_name = configs[f"{tasks[0]}train_config"]
    model_name = files[f"{tasks[0]}model_file"]
    config_file = fetch(config_name)
    model_file = fetch_weights(model_name, fetch)
    for name, found in ((config_name, config_file), (model_name, model_file)):
        if found is None:
            raise ConfigError(f"{where}: {META} names {name}, which is not there")
    return config_file, model_file


def fetch_weights(name: str, fetch: Fetch) -> Path | None:
    """Safetensors in place of a `.pth` of that name, where there are any."""
    safe = str(PurePosixPath(name).with_suffix(".safetensors"))
    return fetch(safe) or fetch(name)


def folder_fetcher(folder: Path) -> Fetch:
    """Of the files in a folder here."""
    return lambda name: path if (path := folder / name).is_file() else None


def hub_fetcher(repository: str, folder: str, revision: str | None) -> Fetch:
    """Of the files in a repository on the Hugging Face Hub, one by one, into its cache.

    Args:
        repository: `user/name`.
        folder: in it, with a slash before each part; empty for its root.
        revision: branch, tag or commit; None for the newest.
    """
    from huggingface_hub import errors, hf_hub_download

    here = f"no folder {repository}{folder} here (looked from {Path.cwd()})"

    def fetch(name: str) -> Path | None:
        if folder and name == META:
            return None  # it lies at the root
        name = f"{folder}/{name}".removeprefix("/")
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except errors.RemoteEntryNotFoundError:
            return None
        except errors.LocalEntryNotFoundError as e:
            if name.endswith(".safetensors"):
                return None  # offline: the .pth may be in the cache
            raise HubError(
                f"{here}, and the Hugging Face Hub does not answer: {name} of "
                f"{repository} is not in its cache: {e.__cause__ or e}: check the "
                "network, or download the repository elsewhere and name its folder"
            ) from e
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as e:
            at = f" with a revision {revision}" if revision else ""
            raise ConfigError(
                f"{here}, and no repository {repository}{at} on the Hugging Face Hub, "
                "or a private one: check the name; `hf auth login` for a private one"
            ) from e
        except errors.HFValidationError as e:
            raise ConfigError(f"{here}, and no name for the Hub: {e}") from e
        except (OSError, errors.HTTPError) as e:  # the latter of a broken connection
            raise HubError(
                f"{repository}: {name}: {type(e).__name__}: {e}: run it again when the "
                "network is back; whole files are kept"
            ) from e

    return fetch
