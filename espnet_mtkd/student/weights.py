"""A model's tensors as files: ESPnet's `.pth`, and safetensors beside it.

A `.pth` is a pickle and is read with `weights_only=True`: tensors, no code. A
`.safetensors` of the same name holds the same tensors, and can hold nothing else.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of, write_atomically

NUM_NAMED = 5  # keys that a message names
SOURCE = "sha256_of_pth"  # metadata: digest of the file that the tensors came from


def compare_keys(state: dict, expected: dict) -> list[str]:
    """What stands between two state dicts, as lines for a message.

    Args:
        state: name -> tensor, of the checkpoint.
        expected: name -> tensor, of the model that takes it over.

    Returns:
        One line for missing, unexpected and differently shaped keys each, where there
        are any; the first five keys are named.
    """
    kinds = {
        "missing": sorted(set(expected) - set(state)),
        "unexpected": sorted(set(state) - set(expected)),
        "of another shape": sorted(
            f"{k} ({tuple(state[k].shape)}, expected {tuple(expected[k].shape)})"
            for k in set(state) & set(expected)
            if state[k].shape != expected[k].shape
        ),
    }
    return [
        f"{len(keys)} {kind}: {', '.join(keys[:NUM_NAMED])}"
        + (", ..." if len(keys) > NUM_NAMED else "")
        for kind, keys in kinds.items()
        if keys
    ]


def read_pth(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor of a model file that ESPnet's trainer wrote, on the CPU.

    Raises:
        ConfigError: no such file; damaged; Python objects in it, which are refused; no
            state dict, as in ESPnet's `checkpoint.pth`; or numbers that are not finite.
    """
    if not path.is_file():
        raise ConfigError(f"no such model file: {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load has no error of its own
        reason = str(e).strip().split("\n")[0]
        raise ConfigError(
            f"{path}: expected a whole .pth with nothing but tensors in it, found: "
            f"{type(e).__name__}: {reason[:200]}: copy or train it anew, and use none "
            "from people you do not trust"
        ) from e
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state)
        raise ConfigError(
            f"{path}: expected a model's tensors by name, found {str(found)[:100]}: "
            "take valid.loss.best.pth or the like; checkpoint.pth is for resuming"
        )
    check_finite(state, path)
    return state


def check_finite(state: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse a model with NaN or infinite numbers in it, which says nothing of them.

    Raises:
        ConfigError: naming the first five tensors.
    """
    bad = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if bad:
        raise ConfigError(
            f"{path}: expected finite numbers, found NaN or infinity in {len(bad)} of "
            f"{len(state)} tensors: {', '.join(bad[:NUM_NAMED])}"
            f"{', ...' if len(bad) > NUM_NAMED else ''}: a step of its training went "
            "wrong: take the file of an earlier epoch (<n>epoch.pth), or train it anew"
        )


def write_safetensors(model_file: Path, out: Path | None = None) -> Path:
    """Write the tensors of a `.pth` as safetensors.

    Tensors that share memory are written each on its own, so every name is there and
    any reader finds it; loaded into a model that ties them, they are tied again.

    Args:
        model_file: a model's `.pth`.
        out: where to (default: beside it, with `.safetensors` in place of `.pth`).

    Returns:
        The file written.

    Raises:
        ConfigError: see `read_pth`.
        DiskError: no space.
    """
    model_file = Path(model_file)
    out = model_file.with_suffix(".safetensors") if out is None else Path(out)
    tensors = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in read_pth(model_file).items()
    }
    metadata = {"format": "pt", SOURCE: sha256_of(model_file)}
    write_atomically(out, save(tensors, metadata))
    return out


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name, on the CPU, and metadata of a `.safetensors`.

    Raises:
        ConfigError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise ConfigError(f"no such model file: {path}")
    try:
        with safe_open(path, "pt") as f:
            state = {name: f.get_tensor(name) for name in f.keys()}
            metadata = f.metadata() or {}
    except SafetensorError as e:
        raise ConfigError(
            f"{path}: expected a whole safetensors file, found: {e}: copy it anew, or "
            "remove it where the .pth lies beside it"
        ) from e
    check_finite(state, path)
    return state, metadata


def read_weights(model_file: Path) -> dict[str, torch.Tensor]:
    """A model's tensors, from safetensors where these lie beside the `.pth`.

    Args:
        model_file: `.pth` or `.safetensors`; of the first, the second need not exist,
            nor the first where the second does.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        ConfigError: see `read_pth`, `read_safetensors`; or safetensors that were made
            from another `.pth` than the one that lies there now.
    """
    pth = model_file.with_suffix(".pth")
    beside = model_file.with_suffix(".safetensors")
    if model_file.suffix != ".safetensors" and not beside.is_file():
        return read_pth(model_file)
    state, metadata = read_safetensors(beside)
    if SOURCE in metadata and pth.is_file() and metadata[SOURCE] != sha256_of(pth):
        raise ConfigError(
            f"{beside}: made from another {pth.name} than the one beside it (it was "
            "trained further?): remove it, or write it anew: python -c 'from "
            f'espnet_mtkd.student.weights import write_safetensors as w; w("{pth}")\''
        )
    return state
