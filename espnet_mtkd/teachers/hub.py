"""s3prl's list of upstreams, with this package's own in it."""

import importlib
import inspect
from pathlib import Path

from espnet_mtkd.compat import (
    TESTED_S3PRL,
    provide_superb_names,
    provide_torchaudio_names,
)
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers import espnet, student, whisper
from espnet_mtkd.teachers.download import download


def import_s3prl_hub():
    """Import `s3prl.hub` and register our own upstreams with it.

    Returns:
        The module `s3prl.hub`, with this package's `whisper*` entries,
        `mtkd_student` and `espnet_local` added.

    Raises:
        ConfigError: s3prl is not installed.
    """
    provide_torchaudio_names()
    try:
        from s3prl import hub
        from s3prl.util import download as s3prl_download
    except ImportError as e:
        raise ConfigError(
            f"s3prl is not importable ({e}): run tools/setup.sh, or "
            f"`pip install s3prl=={TESTED_S3PRL} transformers`."
        ) from e

    # https://github.com/s3prl/s3prl, s3prl/util/download.py
    s3prl_download._download = s3prl_download.download = download
    ours = (*whisper.HUB_ENTRIES, *student.HUB_ENTRIES, *espnet.HUB_ENTRIES)
    for entry in ours:
        if not hasattr(hub, entry.__name__):
            setattr(hub, entry.__name__, entry)
    return hub


# Of upstreams that read a directory of a training, in which other files come and go.
READ = {
    "espnet_local": espnet.checkpoint_files,
    "mtkd_student": student.checkpoint_files,
}


def files_of_checkpoint(upstream: str, path_or_url: str | None) -> list[Path]:
    """Files on this machine that a teacher's weights come from.

    Args:
        upstream, path_or_url: of its config.

    Returns:
        None of them where the checkpoint is elsewhere, or not there.

    Raises:
        ConfigError: a directory in which one of them is missing.
    """
    path = Path(path_or_url) if path_or_url else None
    if path is None or not path.exists():
        return []
    if upstream in READ:
        config_file, model_file = READ[upstream](path_or_url)
        # The tensors of both are the same (`read_weights`); one may be added later.
        if not model_file.is_file():
            model_file = model_file.with_suffix(".safetensors")
        return [config_file, model_file]
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def upstream_names(hub) -> list[str]:
    """Names of upstreams, sorted.

    `hub.options()` has every callable that s3prl's files import there, too: classes,
    and functions of its own that are not from a `hubconf`.

    Args:
        hub: of `import_s3prl_hub`.
    """

    def is_entry(value) -> bool:
        module = getattr(value, "__module__", None) or ""
        is_tool = module.startswith("s3prl.") and not module.endswith("hubconf")
        return not inspect.isclass(value) and not is_tool

    return sorted(n for n in hub.options() if is_entry(getattr(hub, n)))


def import_s3prl_downstream():
    """Import `s3prl.run_downstream`, SUPERB's command, with our upstreams known to it.

    Returns:
        The module; its `main()` reads `sys.argv`.

    Raises:
        ConfigError: s3prl, or a package that it needs for this, is not installed.
    """
    import_s3prl_hub()
    provide_superb_names()
    try:
        return importlib.import_module("s3prl.run_downstream")
    except ImportError as e:
        raise ConfigError(
            f"s3prl.run_downstream is not importable ({e}): install what is missing"
        ) from e
