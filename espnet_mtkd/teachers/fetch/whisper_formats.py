"""Readers of Whisper checkpoints: the encoder's weights under Hugging Face names.

Two formats: OpenAI's .pt and CTranslate2's model.bin. Both readers return fp16 tensors
keyed `encoder.*`, as `transformers.WhisperModel` names them.
"""

import math
import struct
from pathlib import Path

import torch

from espnet_mtkd.errors import DataError

Tensors = dict[str, torch.Tensor]

# ------------------------------------------------------------- OpenAI's .pt

_OPENAI_TOP = {
    "positional_embedding": "embed_positions.weight",
    "ln_post.weight": "layer_norm.weight",
    "ln_post.bias": "layer_norm.bias",
}
_OPENAI_BLOCK = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


def read_openai(path: Path, num_layers: int) -> Tensors:
    """Read the encoder of an OpenAI Whisper checkpoint under Hugging Face names."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state["model_state_dict"]
    except Exception as e:  # torch.load raises half a dozen types
        raise DataError(f"{path.name}: not an OpenAI Whisper checkpoint ({e})") from e
    tensors = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part != "encoder":
            continue
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            module, _, leaf = rest.rpartition(".")
            if module not in _OPENAI_BLOCK or int(layer) >= num_layers:
                raise DataError(f"{path.name}: unknown weight {key}")
            name = f"layers.{layer}.{_OPENAI_BLOCK[module]}.{leaf}"
        else:
            name = _OPENAI_TOP.get(name, name)
        tensors[f"encoder.{name}"] = value.half()
    return tensors


# ------------------------------------------------------------- CTranslate2's model.bin

CT2_BINARY_VERSION = 6
CT2_SPEC = "WhisperSpec"
_CT2_DTYPES = {  # number in the file -> torch
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}
_CT2_LAYER = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}
_CT2_TOP = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}


class _Reader:
    """Reads little-endian fields off a buffer and never past its end."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name, self.offset = memoryview(data), name, 0

    def take(self, num_bytes: int) -> memoryview:
        end = self.offset + num_bytes
        if end > len(self.data):
            raise DataError(
                f"{self.name}: truncated: {num_bytes} bytes wanted at "
                f"{self.offset}, the file has {len(self.data)}"
            )
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk

    def integer(self, fmt: str) -> int:
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))[0]

    def string(self) -> str:
        raw = bytes(self.take(self.integer("H")))
        if not raw.endswith(b"\0") or not raw[:-1].isascii() or b"\0" in raw[:-1]:
            raise DataError(f"{self.name}: bad string {raw[:40]!r} at {self.offset}")
        return raw[:-1].decode()


def parse_ct2(data: bytes, name: str = "model.bin") -> Tensors:
    """Parse a CTranslate2 model file (binary version 6, Whisper).

    Layout: version u32, spec name, spec revision u32, number of variables u32, then per
    variable name, rank u8, dimensions u32, dtype u8, byte count u32, bytes; then the
    number of aliases u32 and pairs of names. Strings: length u16, with a final NUL.

    Raises:
        DataError: anything is not as above, or bytes are missing or left over.
    """
    reader = _Reader(data, name)
    version = reader.integer("I")
    if version != CT2_BINARY_VERSION:
        raise DataError(
            f"{name}: CTranslate2 binary version {version}, expected "
            f"{CT2_BINARY_VERSION}"
        )
    spec = reader.string()
    if spec != CT2_SPEC:
        raise DataError(f"{name}: a {spec} model, expected {CT2_SPEC}")
    reader.integer("I")  # revision: only tells runtimes which features to expect
    tensors: Tensors = {}
    for _ in range(reader.integer("I")):
        key = reader.string()
        shape = [reader.integer("I") for _ in range(reader.integer("B"))]
        dtype = _CT2_DTYPES.get(number := reader.integer("B"))
        num_bytes = reader.integer("I")
        if dtype is None:
            raise DataError(f"{name}: {key}: unknown dtype {number}")
        if math.prod(shape) * dtype.itemsize != num_bytes:
            raise DataError(
                f"{name}: {key}: shape {shape} of {dtype} needs "
                f"{math.prod(shape) * dtype.itemsize} bytes, the file says {num_bytes}"
            )
        if key in tensors:
            raise DataError(f"{name}: {key} occurs twice")
        raw = bytearray(reader.take(num_bytes))
        flat = (
            torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        )
        tensors[key] = flat.reshape(shape)
    for _ in range(reader.integer("I")):
        alias, target = reader.string(), reader.string()
        if target not in tensors:
            raise DataError(f"{name}: alias {alias} of {target}, which is not there")
        tensors[alias] = tensors[target]
    if reader.offset != len(data):
        raise DataError(f"{name}: {len(data) - reader.offset} bytes after the end")
    return tensors


def ct2_to_hf(variables: Tensors, num_layers: int, name: str = "model.bin") -> Tensors:
    """Give the encoder variables of a CTranslate2 Whisper their Hugging Face names.

    CTranslate2 stores query, key and value as one linear layer with one bias; Whisper's
    key has no bias, so that third must be zero and is left out.
    """

    def get(key: str) -> torch.Tensor:
        if key not in variables:
            raise DataError(f"{name}: no variable {key}")
        return variables[key].half()

    tensors = {f"encoder.{hf}": get(f"encoder/{ct2}") for ct2, hf in _CT2_TOP.items()}
    for layer in range(num_layers):
        source, target = f"encoder/layer_{layer}/", f"encoder.layers.{layer}."
        for ct2, hf in _CT2_LAYER.items():
            tensors[target + hf] = get(source + ct2)
        fused = source + "self_attention/linear_0/"
        weights = get(fused + "weight").chunk(3)
        biases = get(fused + "bias").chunk(3)
        if len(weights) != 3 or len(biases) != 3 or biases[1].any():
            raise DataError(f"{name}: {fused}: not query, key (no bias), value in one")
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            tensors[f"{target}self_attn.{part}_proj.weight"] = weight
            if part != "k":
                tensors[f"{target}self_attn.{part}_proj.bias"] = bias
    extra = f"encoder/layer_{num_layers}/"
    if any(key.startswith(extra) for key in variables):
        raise DataError(f"{name}: more than {num_layers} encoder layers")
    return tensors


def read_ct2(path: Path, num_layers: int) -> Tensors:
    """Read the encoder of a CTranslate2 Whisper under Hugging Face names."""
    return ct2_to_hf(parse_ct2(path.read_bytes(), path.name), num_layers, path.name)
