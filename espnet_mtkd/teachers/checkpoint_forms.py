"""What a checkpoint is, by its first bytes and its list of contents.

Nothing of it is run, and of tensors no data is read, but for zeros at a file's end.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from espnet_mtkd.teachers.pickles import (
    MALFORMED,
    PLAIN,
    STORAGES,
    Made,
    Pickle,
    read_pickle,
)

MAX_PICKLE = 64 * 2**20  # bytes; of a real checkpoint it is below 1 % of that
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files by torch < 1.6

DAMAGED = "damaged"  # is nothing that any upstream reads: empty, a pointer, cut ...
PACKED = "packed"  # an archive that holds it
FAIRSEQ = "fairseq"  # a checkpoint of a fairseq training
S3PRL = "s3prl"  # what s3prl's converters write
MICROSOFT = "microsoft"  # WavLM and UniSpeech-SAT as published
OPENAI = "openai"  # Whisper as published
HF_FOLDER = "Hugging Face directory"
HF_WEIGHTS = "Hugging Face weights"
ESPNET = "espnet"
FOLDER = "folder"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Found:
    """What stands at a path.

    Attributes:
        kind: one of the names above.
        what: a phrase for a message.
        family: the model's: hubert, wav2vec2, ...; None where it is not known.
        remedy: what to do, where that does not depend on the upstream.
        names: classes and functions that it names beside those of `PLAIN`.
        keys: top-level keys, of a folder its files.
    """

    kind: str
    what: str
    family: str | None = None
    remedy: str = ""
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


_AGAIN = "Download or copy it again, and compare its size with the original's."
_CUT = "cut or damaged"
_PACKED = (  # magic, offset, what, command that unpacks
    (b"ustar", 257, "a tar archive", "tar -xf {path} -C {folder}"),
    (b"\x1f\x8b", 0, "a gzip file", "gunzip < {path} > {out}"),
    (b"BZh", 0, "a bzip2 file", "bunzip2 < {path} > {out}"),
    (b"\xfd7zXZ\0", 0, "an xz file", "unxz < {path} > {out}"),
)
FAIRSEQ_MODELS = dict(hubert="hubert", wav2vec2="wav2vec2", data2vec_audio="data2vec")
HF_WEIGHT_NAMES = r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)"  # of weights
_HF_FAMILIES = {"data2vec-audio": "data2vec", "unispeech-sat": "unispeech_sat"}


def inspect(path: Path) -> Found | None:
    """Say what a file or folder is, without running it or reading tensor data.

    Returns:
        None where there is nothing.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _inspect_folder(path)
        if not stat.S_ISREG(status.st_mode):
            return Found(DAMAGED, "a pipe or a device", remedy="Name a file.")
        with open(path, "rb") as f:
            found = _inspect_file(path, f, status.st_size)
            zeros = _zero_bytes(f, status.st_size) if found.what.startswith(_CUT) else 0
        if zeros > 64:
            why = f"its last {zeros} bytes are zero, as where a disk was full"
            return dataclasses.replace(found, what=f"{found.what}; {why}")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        remedy = f"Its owner can permit it: chmod a+rX {shlex.quote(str(path))}"
        return Found(DAMAGED, "not readable (permission denied)", remedy=remedy)
    except OSError as e:
        return Found(DAMAGED, f"not readable ({e.strerror})", remedy=_AGAIN)


def _inspect_file(path: Path, f, size: int) -> Found:
    head = f.read(1024)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return Found(DAMAGED, "an empty file (0 bytes)", remedy=_AGAIN)
    if head[5:9] == b"\0\0\0{":  # before all others: its first bytes may be any
        return _inspect_safetensors(path, f, size)
    if head.startswith(b"version https://git-lfs"):
        pointed = re.search(rb"^size (\d{1,15})$", head, re.M)
        folder = shlex.quote(str(path.parent))
        return Found(
            DAMAGED,
            "a pointer of Git LFS, not the file itself"
            + (f" ({int(pointed[1]) / 1e6:.1f} MB)" if pointed else ""),
            # A clone that was made without it does not check out what it pulls.
            remedy=f"Fetch it: cd {folder} && git lfs install --local && git lfs pull",
        )
    if text.startswith(b"<") and re.search(rb"<(!doctype html|html|\?xml)", text):
        title = re.search(rb"<title>\s*([^<]{1,60})", head, re.I)
        title = (
            f" with the title {title[1].decode(errors='replace')!r}" if title else ""
        )
        remedy = "Download it again, by the link to the file and not to its page."
        return Found(DAMAGED, f"a web page (HTML or XML){title}", remedy=remedy)
    if not head.strip(b"\0"):
        return Found(DAMAGED, "damaged: its first bytes are zero", remedy=_AGAIN)
    for magic, offset, what, command in _PACKED:
        if head[offset:].startswith(magic):
            return _packed(path, what, command)
    if head.startswith(b"PK\3\4"):
        return _inspect_zip(path, f)
    if head[:1] == b"\x80":
        return _inspect_pickle(path, f, size)
    is_text = not re.search(rb"[^\t\n\r\x20-\x7e]", head)
    begin = repr(head[:40].decode()) if is_text else head[:16].hex(" ")
    what = f"a {'text' if is_text else 'binary'} file that begins with {begin}"
    return Found(UNKNOWN, what)


def _packed(path: Path, what: str, command: str) -> Found:
    out = path.with_name(f"{path.stem}.unpacked.pt")
    command = command.format(
        path=shlex.quote(str(path)),
        out=shlex.quote(str(out)),
        folder=shlex.quote(str(path.parent)),
    )
    return Found(PACKED, what, remedy=f"Unpack it and name what is in it: {command}")


def _cut(why: str) -> Found:
    return Found(DAMAGED, f"{_CUT}: {why}", remedy=_AGAIN)


def _inspect_zip(path: Path, f) -> Found:
    """What torch >= 1.6 writes, or any other zip archive."""
    try:
        with zipfile.ZipFile(f) as archive:
            entries = archive.infolist()
            if not entries:
                return _cut("the list of contents at its end is gone")
            for entry in entries:
                f.seek(entry.header_offset)
                if f.read(4) != b"PK\3\4":
                    return _cut(f"nothing where {entry.filename!r} should begin")
            names = [e.filename for e in entries]
            pickles = [
                e for e in entries if re.fullmatch(r"([^/]+/)?data\.pkl", e.filename)
            ]
            if not pickles:
                what = f"a zip archive with {some(names)} in it"
                return _packed(path, what, "unzip {path} -d {folder}")
            if any(n.endswith("/constants.pkl") for n in names):
                return Found(UNKNOWN, "a TorchScript program")
            if pickles[0].file_size > MAX_PICKLE:
                return Found(UNKNOWN, "a checkpoint with more than tensors in it")
            data = _read_entry(archive, f, pickles[0])
        pickle = read_pickle(io.BytesIO(data))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as e:
        return _cut(f"it begins as a checkpoint, but has no whole end ({e})")
    except MALFORMED as e:
        return _cut(f"its list of tensors is not whole ({type(e).__name__}: {e})")
    return _classify(path, pickle)


def _read_entry(archive, f, entry) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED:
        return archive.read(entry)
    # Not by zipfile, which insists on a checksum: torch can be told to write none.
    f.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", f.read(4))
    f.seek(entry.header_offset + 30 + name + extra)
    data = f.read(entry.file_size)
    if entry.CRC and zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile(f"wrong checksum of {entry.filename}")
    return data


def _zero_bytes(f, size: int) -> int:
    """How many bytes at a file's end are zero."""
    zeros, block = 0, 1 << 16
    while zeros < size:
        begin = max(0, size - zeros - block)
        f.seek(begin)
        data = f.read(size - zeros - begin)
        rest = data.rstrip(b"\0")
        zeros += len(data) - len(rest)
        if rest or not data:
            break
    return zeros


def _check_end(f, size: int, tensors: list[tuple[int, int, int]]) -> Found | None:
    """Whether data go up to a file's end.

    Args:
        f: the file.
        size: of it, in bytes.
        tensors: first byte, byte behind the last, and dimensions of each.
    """
    end = max((end for _, end, _ in tensors), default=0)
    if end > size:
        return _cut(f"its tensors need {end} bytes, it has {size}")
    zeros = _zero_bytes(f, size)
    for begin, end, dims in tensors:
        zero = end - max(begin, size - zeros)
        # A bias may be zero in earnest; a whole matrix, or a page of one, is not.
        if dims > 1 and zero >= (512 if zero == end - begin else 4096):
            return _cut("its last tensors are zero")
    return None


def _inspect_pickle(path: Path, f, size: int) -> Found:
    """What torch < 1.6 writes, or any other pickle."""
    f.seek(0)
    is_torch = f.read(15)[2:4] == b"\x8a\x0a"
    if not is_torch and size > MAX_PICKLE:
        return Found(UNKNOWN, "a pickle that torch.save did not write")
    f.seek(0)
    try:
        pickle = read_pickle(f)
        if isinstance(pickle.value, int) and pickle.value == TORCH_MAGIC:
            read_pickle(f)  # protocol
            read_pickle(f)  # byte order
            pickle = read_pickle(f)
            keys = read_pickle(f).value
            damage = _check_storages(f, size, pickle, keys)
            if damage is not None:
                return damage
    except MALFORMED as e:
        return _cut(f"its list of tensors is not whole ({type(e).__name__}: {e})")
    return _classify(path, pickle)


def _check_storages(f, size: int, pickle: Pickle, keys) -> Found | None:
    tensors = []
    for key in map(str, keys):
        _, kind, _, _, num = pickle.storages[key][:5]
        begin = f.tell() + 8
        if begin > size:
            return _cut(f"it has {size} bytes, more are needed")
        if struct.unpack("<q", f.read(8))[0] != num:
            return _cut(f"the data of tensor {key} do not begin where they should")
        name = kind.name.rpartition(".")[2].removesuffix("Storage")
        end = begin + num * STORAGES.get(name, 1)
        tensors.append((begin, end, len(pickle.shapes.get(key, ()))))
        f.seek(end)
    return _check_end(f, size, tensors)


def _inspect_safetensors(path: Path, f, size: int) -> Found:
    f.seek(0)
    (length,) = struct.unpack("<Q", f.read(8))
    if length > min(size, MAX_PICKLE):
        return _cut(f"its header needs {length} bytes, it has {size}")
    try:
        header = json.loads(f.read(length))
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        tensors = [
            (*(8 + length + x for x in entry["data_offsets"]), len(entry["shape"]))
            for entry in entries.values()
        ]
        end = max((end for _, end, _ in tensors), default=0)
        if tensors and size != end:
            return _cut(f"its tensors need {end} bytes, it has {size}")
        damage = _check_end(f, size, tensors)
    except (*MALFORMED, RecursionError) as e:
        return _cut(f"its header is not one of safetensors ({type(e).__name__})")
    return damage or _classify_weights(path, entries, "a safetensors file", ())


def some(names, limit: int = 6) -> str:
    """The first of some names, which a file chose, on one line of a message."""
    shown = ", ".join(str(name)[:60] for name in list(names)[:limit])
    shown = "".join(x if x.isprintable() else "?" for x in shown)
    return shown + (", ..." if len(names) > limit else "")


def _classify(path: Path, pickle: Pickle) -> Found:
    """What the parts of a pickle say that it is."""
    value, names = pickle.value, tuple(sorted(pickle.names - PLAIN))
    if not isinstance(value, dict):
        kind = value.name if isinstance(value, Made) else type(value).__name__
        return Found(UNKNOWN, f"a pickle of {some([kind])}, not of a dict", names=names)
    keys = tuple(map(str, value))
    same = dict(names=names, keys=keys)
    if {"task_cfg", "model_cfg", "model_weight"} <= set(keys):
        family = _family(value["model_cfg"], value["model_weight"]) or "wav2vec2"
        if "dictionaries_symbols" in value:
            family = "hubert"
        return Found(S3PRL, f"a {family} model from s3prl's converter", family, **same)
    if {"dims", "model_state_dict"} <= set(keys):
        return Found(OPENAI, "a Whisper model of OpenAI's", "whisper", **same)
    if {"model", "reporter", "optimizers"} <= set(keys):
        what = "the state of an ESPnet training, not one of its models"
        return Found(ESPNET, what, **same)
    if isinstance(value.get("model"), dict):
        config, args = value.get("cfg"), value.get("args")
        if isinstance(config, dict) and not {"model", "task", "common"} & set(config):
            what = "a model of the WavLM family, as Microsoft publishes it"
            return Found(MICROSOFT, what, "wavlm", **same)
        if {"cfg", "args", "optimizer_history", "extra_state"} & set(keys):
            return _classify_fairseq(value["model"], config, args, same)
    tensors = [x for x in value.values() if isinstance(x, Made) and x.is_tensor]
    if len(tensors) > 0.9 * len(value) > 0:
        return _classify_weights(path, value, "a file of weights", names)
    what = f"a checkpoint with the top-level keys {some(keys, 12) or '(none)'}"
    return Found(UNKNOWN, what, **same)


def _text(value, key: str) -> str | None:
    """A text of a dict or of an object's attributes."""
    value = value.state if isinstance(value, Made) else value
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def _family(config, weights) -> str | None:
    """Of a model in fairseq's names, by its config or what only it has."""
    name = _text(config, "_name")
    if name in FAIRSEQ_MODELS or not isinstance(weights, dict):
        return FAIRSEQ_MODELS.get(name)
    marks = {"label_embs_concat": "hubert", "_ema": "data2vec"}
    marks |= {"quantizer.vars": "wav2vec2", "project_q.weight": "wav2vec2"}
    return next((family for key, family in marks.items() if key in weights), None)


def _classify_fairseq(weights: dict, config, args, same: dict) -> Found:
    by, name, family = "no config", None, None
    if isinstance(args, Made):
        by, name = "args", _text(args, "arch")
    elif config is not None:
        model = config.get("model") if isinstance(config, dict) else None
        by, name = "cfg", _text(model, "_name")
    if any(str(key).startswith("w2v_encoder.") for key in weights):
        name = name or "a fine-tuned model"
    else:
        family = FAIRSEQ_MODELS.get(name) if name else _family(None, weights)
    what = f"a training checkpoint of fairseq ({by} and model"
    what += f", of {some([name or family])})" if name or family else ")"
    if any(name.startswith("fairseq.") for name in same["names"]):
        what += " with objects of fairseq's own"
    return Found(FAIRSEQ, what, family, **same)


def _classify_weights(path: Path, weights: dict, what: str, names) -> Found:
    """Tensors without a config: whose names they bear."""
    keys = tuple(map(str, weights))
    same = dict(names=names, keys=keys)
    text = "\n".join(keys)
    if re.search(r"^(encoder\.encoders|frontend|joint_network)\.", text, re.M):
        return Found(ESPNET, "the weights of an ESPnet model", **same)
    marks = {  # of `transformers`
        r"encoder\.conv1\.|encoder\.embed_positions\.": "whisper",
        r"gru_rel_pos_linear": "wavlm",
        r"^hubert\.": "hubert",
        r"^wav2vec2\.|^quantizer\.": "wav2vec2",
        r"^data2vec_audio\.": "data2vec",
        r"feature_projection\.": None,
    }
    for pattern, family in marks.items():
        if re.search(pattern, text, re.M):
            with contextlib.suppress(ValueError, RecursionError):
                family = _hf_family(_read_config(path.parent)) or family
            return Found(HF_WEIGHTS, f"{what} of Hugging Face's", family, **same)
    what = f"{what} without a config (the first: {some(keys, 3) or 'none'})"
    return Found(UNKNOWN, what, **same)


# ------------------------------------------------------------- what a folder is


def _read_config(folder: Path):
    """Its `config.json`, None without one.

    Raises:
        ValueError: it is no JSON.
    """
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _hf_family(config) -> str | None:
    name = _text(config, "model_type")
    if name is None and isinstance(config, dict) and "num_mel_bins" in config:
        name = "whisper"
    return _HF_FAMILIES.get(name, name)


def _inspect_folder(path: Path) -> Found:
    names = sorted(p.name for p in path.iterdir())
    weights = [name for name in names if re.fullmatch(HF_WEIGHT_NAMES, name)]
    try:
        config = _read_config(path)
    except (ValueError, RecursionError):
        return _cut(f"{path / 'config.json'} is no whole JSON file")
    if config is None and weights:
        what = f"a directory with {some(weights)} but without config.json"
        remedy = "Fetch config.json and preprocessor_config.json into it too."
        return Found(FOLDER, what, remedy=remedy)
    if config is None:
        files = [n for n in names if n.endswith((".pt", ".pth", ".ckpt"))]
        if files and "config.yaml" in names:
            return Found(
                ESPNET, "the directory of an ESPnet training", keys=tuple(names)
            )
        what = (
            f"a directory with {some(names)} in it" if names else "an empty directory"
        )
        remedy = f"Name the file: path_or_url: {path / files[0]}" if files else ""
        return Found(FOLDER, what, remedy=remedy)
    foreign = set()
    for name in weights:
        found = inspect(path / name)
        if found is not None and found.kind == DAMAGED:
            return dataclasses.replace(found, what=f"{name} in it is {found.what}")
        foreign |= set(found.names if found is not None else ())
    family = _hf_family(config)
    what = f"a Hugging Face directory of a {some([family or 'nameless'])} model"
    same = dict(names=tuple(sorted(foreign)), keys=tuple(names))
    return Found(HF_FOLDER, what, family, **same)
