"""Imports run one way, from what a command does down to what the rest is made of."""

import ast
import subprocess
import sys

import builders
import pytest

PACKAGE = builders.ROOT / "espnet_mtkd"
# A folder, or a module at the top, imports itself and what lines above its own have.
LAYERS = (
    {"errors"},
    {"compat", "files", "machine"},
    {"data", "objective"},
    {"augment", "teachers"},
    {"targets"},
    {"student"},
    {"training"},
    {"ladder", "pretraining", "results", "streaming"},
    {"transducer", "publish", "report"},
    {"bin"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# A model of this package's or of ESPnet's as a teacher: the imports upwards, made when
# such a teacher is asked for.
EXCEPTIONS = {
    ("teachers/student.py", "student"),
    ("teachers/espnet.py", "student"),
    ("teachers/espnet_model.py", "student"),
    ("teachers/espnet_model.py", "transducer"),
}
ONLY = {
    "objective": {"errors", "torch"},
    "compat": {"errors"},
    "data": {"errors", "files"},
}


def imported(path) -> set[str]:
    """Full names that a file imports anywhere in it, functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def broken_rules(path: str, names: set[str]) -> list[str]:
    """What of a file's imports is against the rules above."""
    own = path.partition("/")[0].removesuffix(".py")
    broken = []
    for name in sorted(names):
        top, *rest = name.split(".")
        part = rest[0] if top == "espnet_mtkd" and rest else None
        if part in RANK and part != own and (path, part) not in EXCEPTIONS:
            allowed = ONLY.get(own, RANK)
            if RANK[part] >= RANK[own] or part not in allowed:
                broken.append(f"{path}: {own} may not import {name}")
        if own == "objective" and top not in {"espnet_mtkd", "torch"}:
            if top not in sys.stdlib_module_names:
                broken.append(f"{path}: objective imports torch alone, not {name}")
    return broken


FILES = sorted(
    str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE
)


def test_every_folder_and_module_has_a_rank():
    tops = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.name[0] != "_"}
    assert tops == set(RANK)


def test_imports_run_one_way():
    files = [*FILES, "errors.py", "files.py", "compat.py", "machine.py"]
    broken = [b for f in files for b in broken_rules(f, imported(PACKAGE / f))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("teachers/base.py", "espnet_mtkd.student.load_student"),
        ("targets/store.py", "espnet_mtkd.pretraining.task.MTKDTask"),
        ("results/report.py", "espnet_mtkd.pretraining.task"),
        ("publish/card.py", "espnet_mtkd.bin.mtkd_pack.main"),
        ("objective/losses.py", "espnet_mtkd.data.audio"),
        ("objective/losses.py", "numpy"),
        ("compat.py", "espnet_mtkd.files.sha256_of"),
        ("data/audio.py", "espnet_mtkd.compat.require_espnet"),
    ],
)
def test_a_broken_rule_is_seen(path, name):
    assert broken_rules(path, {name})
    assert not broken_rules(path, {"espnet_mtkd.errors.DataError", "torch"})


def test_what_a_recipe_asks_before_it_begins_needs_no_torch(corpus, tmp_path):
    """Each run of mtkd.sh waits for it, even where all is finished."""
    asr = builders.write_yaml(tmp_path / "asr.yaml", builders.asr_config("conformer"))
    data = builders.copy_data(corpus, tmp_path) / "train"
    utts = [x.split()[0] for x in (data / "text").read_text().splitlines()]
    (data / "utt2spk").write_text("".join(f"{x} {x}\n" for x in utts))
    teachers = [dict(name="a", upstream="whisper_tiny")]
    words = ["--teachers", str(builders.write_yaml(tmp_path / "t.yaml", teachers))]
    words += ["--data_dir", str(data), "--ends", str(data)]
    words += ["--asr_config", str(asr), "--keep_teachers", "weight=300"]
    words += ["--lengths", str(data / "speech_shape")]
    program = f"""
import sys
from espnet_mtkd.bin.mtkd_preflight import main
main({words})
print(*sorted({{"torch", "espnet2", "s3prl"}} & {{*sys.modules}}))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []
