"""What tells the targets of one teacher from those of another."""

import hashlib
from importlib import metadata
from pathlib import Path

from espnet_mtkd.errors import shown
from espnet_mtkd.teachers.base import TeacherConfig, resolve_layers
from espnet_mtkd.teachers.hub import files_of_checkpoint

# Fields that may differ without the targets being others.
LOOSE = {"versions"}
PACKAGES = ("espnet_mtkd", "s3prl", "torch", "torchaudio", "safetensors")


def checkpoint_digest(upstream: str, path_or_url: str | None) -> str | None:
    """sha256 of a local checkpoint, file or directory; a name or URL as it is.

    Of the directory of a training only config and model file count.

    Args:
        upstream, path_or_url: of a teacher's config.

    Raises:
        ConfigError: see `files_of_checkpoint`.
    """
    files = files_of_checkpoint(upstream, path_or_url)
    if not files:
        return path_or_url
    path = Path(path_or_url)
    sha = hashlib.sha256()
    for file in files:
        if path.is_dir():
            sha.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as f:
            sha.update(hashlib.file_digest(f, "sha256").digest())
    return f"sha256:{sha.hexdigest()}"


def versions() -> dict[str, str]:
    """Of the libraries that targets depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def teacher_fingerprint(teacher) -> dict:
    """What the targets of a loaded teacher depend on.

    Args:
        teacher: `S3PRLTeacher`.

    Returns:
        JSON-able fields; `checkpoint` can be compared without loading the teacher,
        `weights` is over all its tensors.
    """
    config = teacher.config
    return {
        "upstream": config.upstream,
        "checkpoint": checkpoint_digest(config.upstream, config.path_or_url),
        "weights": teacher.digest(),
        "num_layers": teacher.num_layers,
        "layers": [spec.layer for spec in teacher.targets],
        "normalize": config.normalize,
        "extra_conf": config.extra_conf,
        "versions": versions(),
    }


def differing_field(expected: dict, found: dict) -> str | None:
    """The first field in which two fingerprints differ, as text for a message."""
    for key in [*expected, *(k for k in found if k not in expected)]:
        if key not in LOOSE and expected.get(key) != found.get(key):
            return f"{key}: expected {expected.get(key)!r}, found {found.get(key)!r}"
    return None


def compare_config(config: TeacherConfig, fingerprint: dict) -> str | None:
    """In what a store's fingerprint differs from a teacher's config, None: nothing.

    The teacher is not loaded. Layers may be a part of those that are stored. A
    checkpoint that is no longer there cannot be compared and passes.

    Args:
        config: of the teacher.
        fingerprint: of the store.
    """
    expected = {
        "upstream": config.upstream,
        "normalize": config.normalize,
        "extra_conf": config.extra_conf,
    }
    found = {key: fingerprint.get(key) for key in expected}
    field = differing_field(expected, found)
    if field:
        return field
    for key, kind in (("num_layers", int), ("layers", list)):
        if not isinstance(fingerprint.get(key), kind):
            return f"{key}: found {shown(fingerprint.get(key))}"
    path = config.path_or_url
    if path and (Path(path).exists() or not fingerprint.get("checkpoint")):
        digest = checkpoint_digest(config.upstream, path)
        if digest != fingerprint.get("checkpoint"):
            return (
                f"checkpoint: expected that of path_or_url {path} ({digest}), found "
                f"{shown(fingerprint.get('checkpoint'))}"
            )
    layers = resolve_layers(config, fingerprint["num_layers"])
    if not all(layer in fingerprint["layers"] for layer in layers):
        return f"layers: expected {layers}, found {fingerprint['layers']}"
    return None
