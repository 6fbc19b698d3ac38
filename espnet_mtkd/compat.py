"""The only place that knows versions of ESPnet, torchaudio and s3prl."""

import contextlib
import importlib
import random
import sys
import types

from espnet_mtkd.errors import ConfigError

TESTED_ESPNET = "202611"


def require_espnet():
    """Import espnet2 or say how to get it.

    Raises:
        ConfigError: ESPnet is not importable.
    """
    try:
        return importlib.import_module("espnet2")
    except ImportError as e:
        raise ConfigError(
            f"ESPnet is not importable ({e}). Expected ESPnet {TESTED_ESPNET}: run "
            "tools/setup.sh of this project, or put your ESPnet checkout on PYTHONPATH."
        ) from e


def import_s3prl_hub():
    """Import `s3prl.hub` under torchaudio >= 2.9 and register our own upstreams.

    s3prl 0.4.18 calls `torchaudio.set_audio_backend` and imports
    `torchaudio.sox_effects` when it is imported; torchaudio 2.9 removed both. s3prl
    needs neither to extract embeddings from waveforms, so stand-ins are enough.

    Returns:
        The module `s3prl.hub`, with this package's `whisper*` entries and
        `mtkd_student` added.

    Raises:
        ConfigError: s3prl is not installed.
    """
    import torchaudio

    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda backend: None
    if not hasattr(torchaudio, "sox_effects"):
        stub = types.ModuleType("torchaudio.sox_effects")
        stub.apply_effects_tensor = stub.apply_effects_file = _no_sox
        sys.modules.setdefault("torchaudio.sox_effects", stub)
        torchaudio.sox_effects = stub
    try:
        from s3prl import hub
    except ImportError as e:
        raise ConfigError(
            f"s3prl is not importable ({e}): run tools/setup.sh, or "
            "`pip install s3prl==0.4.18 transformers`."
        ) from e

    from espnet_mtkd.teachers import student, whisper

    for entry in (*whisper.HUB_ENTRIES, *student.HUB_ENTRIES):
        if not hasattr(hub, entry.__name__):
            setattr(hub, entry.__name__, entry)
    return hub


def import_s3prl_downstream():
    """Import `s3prl.run_downstream`, SUPERB's command, with our upstreams known to it.

    It imports two names that huggingface_hub has no more since version 1 and needs them
    only for what it uploads; and tensorboardX, in whose place TensorBoard's own writer
    serves.

    Returns:
        The module; its `main()` reads `sys.argv`.

    Raises:
        ConfigError: s3prl, or a package that it needs for this, is not installed.
    """
    import_s3prl_hub()
    import huggingface_hub

    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            setattr(huggingface_hub, name, None)
    try:
        importlib.import_module("tensorboardX")
    except ImportError:
        from torch.utils import tensorboard

        sys.modules["tensorboardX"] = tensorboard
    try:
        return importlib.import_module("s3prl.run_downstream")
    except ImportError as e:
        raise ConfigError(
            f"s3prl.run_downstream is not importable ({e}): install what is missing"
        ) from e


def _no_sox(*args, **kwargs):
    raise NotImplementedError("torchaudio has no sox effects since version 2.9")


@contextlib.contextmanager
def preserved_rng():
    """Keep Python's and torch's random state as it was.

    `S3PRLUpstream.__init__` calls `random.seed(0)` and `torch.manual_seed(0)`; without
    this, loading a teacher would make every student start from the same weights,
    whatever `--seed` says.
    """
    import torch  # only here: a command's --help need not wait for it

    state = random.getstate()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)
