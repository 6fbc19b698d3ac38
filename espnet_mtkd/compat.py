"""The only place that knows versions of ESPnet, torchaudio and s3prl."""

import argparse
import contextlib
import functools
import importlib
import inspect
import os
import random
import sys
import types

from espnet_mtkd.errors import ConfigError

TESTED_ESPNET = "202611"
TESTED_S3PRL = "0.4.18"


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


def check_types_lazily() -> None:
    """Let ESPnet be imported in two thirds of the time; call it before the import.

    ESPnet marks its functions `@typeguard.typechecked`, which parses, rewrites and
    compiles each of them when it is defined: 8 of the 19 seconds of processor time that
    `espnet2.tasks.asr` takes. From here on that is done when a function is first
    called. What is checked, and the errors, stay the same; but where a file was changed
    meanwhile, its functions stay those that were imported, unchecked.
    """
    try:
        import typeguard
    except ImportError:
        return
    at_once = typeguard.typechecked
    if getattr(at_once, "is_lazy", False):
        return

    @functools.lru_cache
    def file_state(path: str):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            return found.st_mtime_ns, found.st_size

    def typechecked(target=None, **options):
        if target is None:
            return functools.partial(typechecked, **options)
        if not inspect.isfunction(target):  # a class, say
            return at_once(target, **options)
        checked = None
        state = file_state(target.__code__.co_filename)

        @functools.wraps(target)
        def call(*args, **kwargs):
            nonlocal checked
            if checked is None:
                file_state.cache_clear()
                is_same = file_state(target.__code__.co_filename) == state
                # typeguard compiles what the file says now.
                checked = at_once(target, **options) if is_same else target
            return checked(*args, **kwargs)

        return call

    typechecked.is_lazy = True
    typeguard.typechecked = typechecked


def provide_torchaudio_names() -> None:
    """Let s3prl be imported under torchaudio >= 2.9.

    s3prl 0.4.18 calls `torchaudio.set_audio_backend` and imports
    `torchaudio.sox_effects` when it is imported; torchaudio 2.9 removed both. s3prl
    needs neither to extract embeddings from waveforms, so stand-ins are enough.
    """
    import torchaudio

    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda backend: None
    if not hasattr(torchaudio, "sox_effects"):
        stub = types.ModuleType("torchaudio.sox_effects")
        stub.apply_effects_tensor = stub.apply_effects_file = _no_sox
        sys.modules.setdefault("torchaudio.sox_effects", stub)
        torchaudio.sox_effects = stub


def provide_superb_names() -> None:
    """Let `s3prl.run_downstream` be imported beside huggingface_hub >= 1.

    It imports two names that huggingface_hub has no more since version 1 and needs them
    only for what it uploads; and tensorboardX, in whose place TensorBoard's own writer
    serves.
    """
    import huggingface_hub

    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            setattr(huggingface_hub, name, None)
    try:
        importlib.import_module("tensorboardX")
    except ImportError:
        from torch.utils import tensorboard

        sys.modules["tensorboardX"] = tensorboard


@contextlib.contextmanager
def no_code_from_files():
    """Let torch.load read tensors and plain values alone, whatever its caller says.

    s3prl 0.4.18 loads some upstreams' checkpoints (Mockingjay, TERA, Audio ALBERT,
    DistilHuBERT) with weights_only=False (https://github.com/s3prl/s3prl,
    s3prl/upstream/{mockingjay,distiller}/builder.py), which runs what is in them.
    """
    import torch

    def load(*args, **kwargs):
        kwargs["weights_only"] = True
        with torch.serialization.safe_globals([argparse.Namespace]):
            return own(*args, **kwargs)

    own = torch.load
    torch.load = load
    try:
        yield
    finally:
        torch.load = own


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
