"""Are a resumed training's teachers those that it began with?"""

import json
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of, write_atomically
from espnet_mtkd.targets.fingerprint import differing_field, teacher_fingerprint
from espnet_mtkd.targets.store import MANIFEST
from espnet_mtkd.targets.teacher import CachedTeacher

FILE = "teachers.json"  # in the folder of a training


def check_teachers(teachers, folder: Path, resumes: bool) -> None:
    """Write down what the teachers are, or compare it with what was written down.

    Args:
        teachers: `TeacherPool`, or a `TargetMemory` around one.
        folder: of the training.
        resumes: whether it goes on from a checkpoint.

    Raises:
        ConfigError: a teacher's weights, settings or stored targets are others than
            when the training began; teacher and field are named.
    """
    pool = getattr(teachers, "teacher", teachers)
    found = {t.config.name: _describe(t) for t in getattr(pool, "teachers", [])}
    path = folder / FILE
    if not resumes or not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found, indent=1).encode())
        return
    began_with = json.loads(path.read_text(encoding="utf-8"))
    for described in began_with.values():
        if "stored" not in described:  # by a version that had no other data type
            described.setdefault("dtype", "float32")
    for name in [*began_with, *(n for n in found if n not in began_with)]:
        if name not in began_with or name not in found:
            field = f"expected {sorted(began_with)}, found {sorted(found)}"
        else:
            field = _difference(began_with[name], found[name])
        if field:
            raise ConfigError(
                f"{folder}: teacher '{name}' is another than when this training began: "
                f"{field}: give it that one back, or train into another folder "
                "(--output_dir; mtkd.sh: --mtkd_tag)"
            )


def _describe(teacher) -> dict:
    if isinstance(teacher, CachedTeacher):
        folders = [store.folder for store in teacher.stores]
        return {"stored": {f.name: sha256_of(f / MANIFEST) for f in folders}}
    fingerprint = teacher_fingerprint(teacher)
    del fingerprint["versions"]
    return {**fingerprint, "dtype": str(teacher.dtype).removeprefix("torch.")}


def _difference(expected: dict, found: dict) -> str | None:
    if "stored" in expected and "stored" in found:
        # Targets of more data may have come since.
        both = expected["stored"].keys() & found["stored"].keys()
        expected, found = (
            {f"targets of {k}": d["stored"][k] for k in sorted(both)}
            for d in (expected, found)
        )
    return differing_field(expected, found)
