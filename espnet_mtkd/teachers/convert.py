"""fairseq's checkpoints in the form of s3prl's converters, made without fairseq.

What stands in for s3prl/upstream/{hubert,wav2vec2,data2vec}/convert.py, which need it.
"""

import argparse
import ast
import dataclasses
import importlib
import io
import shlex
import typing
from enum import Enum
from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.teachers.checkpoint_forms import FAIRSEQ, inspect
from espnet_mtkd.teachers.checkpoints import DICTIONARY, NAMESPACE, remedy_of
from espnet_mtkd.teachers.hub import import_s3prl_hub

_CONFIGS = {  # of the task and the model, of s3prl, which copied them from fairseq
    "hubert": ("HubertPretrainingConfig", "HubertConfig"),
    "wav2vec2": ("AudioPretrainingConfig", "Wav2Vec2Config"),
    "data2vec": ("AudioPretrainingConfig", "Data2VecAudioConfig"),
}


class _Dictionary:
    """Takes the attributes of fairseq's `Dictionary`, and does nothing."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `convert` wrote.

    Attributes:
        num_parameters: of the model that s3prl makes of it.
        notes: sentences on what is not as in the original.
    """

    num_parameters: int
    notes: tuple[str, ...]


def convert(checkpoint: Path, upstream: str, out: Path) -> Converted:
    """Write a pre-trained checkpoint of fairseq in the form that s3prl reads.

    The result has the keys and values of s3prl's own converter, and is loaded by s3prl
    before it is written. Nothing in the checkpoint is run.

    Args:
        checkpoint: of fairseq.
        upstream: hubert_local, wav2vec2_local or data2vec_local.
        out: file to write; it is either whole or not there.

    Raises:
        ConfigError: the checkpoint is something else, of another model, or holds what
            only fairseq can load; or `out` cannot be written.
        DiskError: no space for `out`.
    """
    family = upstream.removesuffix("_local")
    _check(checkpoint, family, out)
    import_s3prl_hub()  # before s3prl can be imported
    try:
        result, notes = _result(_load(checkpoint), family)
        buffer = io.BytesIO()
        torch.save(result, buffer)
        num_parameters = _try(buffer, family)
    except _Refused as e:
        raise ConfigError(
            f"--checkpoint: {checkpoint}: {e}. The other way is s3prl's own converter, "
            f"where fairseq is installed: python -m s3prl.upstream.{family}.convert "
            f"{shlex.quote(str(checkpoint))} --output_dir DIR"
        ) from e
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, buffer.getbuffer())
    except OSError as e:
        raise ConfigError(f"--out: {out} cannot be written: {e}") from e
    return Converted(num_parameters, tuple(notes))


def _check(checkpoint: Path, family: str, out: Path) -> None:
    """Refuse what cannot be converted before any of it is loaded."""
    found = inspect(checkpoint)
    if found is None:
        raise ConfigError(f"--checkpoint: no such file: {checkpoint}")
    is_plain = not set(found.names) - {NAMESPACE, DICTIONARY}
    if found.kind != FAIRSEQ or found.family is None or not is_plain:
        raise ConfigError(
            f"--checkpoint: {checkpoint}: expected a pre-trained {family} model of "
            f"fairseq, found {found.what}. {remedy_of(found, checkpoint)}".rstrip()
        )
    if found.family != family:
        raise ConfigError(
            f"--upstream: expected {found.family}_local, as {checkpoint} is "
            f"{found.what}, found {family}_local"
        )
    if out.is_dir() or (out.exists() and out.samefile(checkpoint)):
        raise ConfigError(f"--out: expected another file than the checkpoint: {out}")


class _Refused(Exception):
    """Why a checkpoint cannot be converted here."""


def _load(checkpoint: Path) -> dict:
    """The checkpoint, of tensors, plain values and attributes alone."""
    with open(checkpoint, "rb") as f:
        is_zip = f.read(2) == b"PK"
    known = [argparse.Namespace, (_Dictionary, DICTIONARY)]
    try:
        with torch.serialization.safe_globals(known):
            # Mapped: the optimizer's state is never read.
            return torch.load(
                checkpoint, map_location="cpu", weights_only=True, mmap=is_zip
            )
    except Exception as e:
        raise _Refused(f"torch does not load it as plain values: {e}") from e


def _result(state: dict, family: str) -> tuple[dict, list[str]]:
    """What to write, and notes on what of it is not in the checkpoint."""
    try:
        task, model, labels = _configs(state, family)
    except (KeyError, TypeError, ValueError, SyntaxError) as e:
        raise _Refused(
            "expected args, or cfg with task and model, of plain values, found "
            f"{type(e).__name__}: {e}"
        ) from e
    weights, notes = state["model"], []
    result = {"task_cfg": task, "model_cfg": model, "model_weight": weights}
    if family == "hubert":
        symbols = _symbols(state, labels)
        if symbols is None:
            symbols = [[str(i) for i in range(len(weights["label_embs_concat"]))]]
            notes.append(
                "its dictionary is not in it: the classes are numbered, which no "
                "hidden state depends on"
            )
        result["dictionaries_symbols"] = symbols
    heads = [key for key in weights if key.startswith("final_proj.")]
    if family == "data2vec" and heads:
        result["model_weight"] = {k: x for k, x in weights.items() if k not in heads}
        notes.append(
            f"left out: {', '.join(heads)}, which s3prl does not load and no hidden "
            "state depends on"
        )
    return result, notes


def _configs(state: dict, family: str) -> tuple[dict, dict, list]:
    """`task_cfg` and `model_cfg` as fairseq and s3prl would have them, and the labels.

    Raises:
        KeyError, TypeError, ValueError, SyntaxError: there are none, or not of plain
            values.
    """
    if state.get("args") is None:
        task, model = _plain(state["cfg"]["task"]), _plain(state["cfg"]["model"])
        return task, model, task.get("labels") or []
    args = vars(state["args"])  # of before fairseq's configs: all in one
    module = importlib.import_module(f"s3prl.upstream.{family}.convert")
    task, model = (
        {"_name": args.get(name), **_take(getattr(module, kind), args)}
        for kind, name in zip(_CONFIGS[family], ("task", "arch"), strict=True)
    )
    return task, model, args.get("labels") or []


def _plain(value):
    """What OmegaConf makes of a config and gives back: dicts, lists, plain values."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise TypeError(f"an object of {type(value).__name__}")


def _take(kind, args: dict) -> dict:
    """The fields of a dataclass that flat arguments have.

    As fairseq's `convert_namespace_to_omegaconf`: texts become the values of a field
    that is no text (`latent_temp` was one), tuples become lists.
    """
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in args:
            continue
        value = args[field.name]
        kinds = typing.get_args(field.type) or (field.type,)
        if isinstance(value, str) and not any(issubclass(x, str | Enum) for x in kinds):
            value = ast.literal_eval(value)
        found[field.name] = _plain(value)
    return found


def _symbols(state: dict, labels: list) -> list[list[str]] | None:
    """Symbols of the dictionaries, None where a single one is missing.

    Raises:
        _Refused: several are missing: how many classes each has is not known.
    """
    tasks = state.get("task_state")
    dictionaries = tasks.get("dictionaries") if isinstance(tasks, dict) else None
    symbols = [getattr(x, "symbols", None) for x in dictionaries or []]
    if symbols and all(isinstance(x, list) for x in symbols):
        return symbols
    num = max(len(symbols), len(labels), 1)
    if num > 1 or "label_embs_concat" not in state["model"]:
        raise _Refused(f"expected task_state with {num} dictionaries, found none")
    return None


def _try(buffer: io.BytesIO, family: str) -> int:
    """Load the result as s3prl does; returns the number of parameters."""
    module = importlib.import_module(f"s3prl.upstream.{family}.convert")
    buffer.seek(0)
    try:
        model, _ = module.load_converted_model(buffer)
    except Exception as e:
        raise _Refused(
            f"s3prl does not load a {family} model of it: {type(e).__name__}: "
            f"{str(e)[:500]}"
        ) from e
    return sum(p.numel() for p in model.parameters())
