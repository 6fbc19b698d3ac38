"""A recipe's directory with a finished student, its archive, and a stub of the Hub."""

import contextlib
import shutil
from pathlib import Path

import hub_stub
import publish_recipe
import pytest


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """Not to be changed; `own_recipe` is."""
    root = tmp_path_factory.mktemp("recipe")
    publish_recipe.write_recipe(root)
    return root


@pytest.fixture
def own_recipe(recipe, tmp_path) -> Path:
    """A copy, which the test may damage; its absolute paths are its own."""
    root = tmp_path / "recipe"
    shutil.copytree(recipe, root, symlinks=True)
    for path in [*root.glob("exp/*/config.yaml"), *root.glob("exp/*/RESULTS.md")]:
        path.write_text(path.read_text().replace(str(recipe), str(root)))
    return root


@pytest.fixture(scope="session")
def archive(recipe, tmp_path_factory) -> Path:
    """The student, packed by the command."""
    from espnet_mtkd.bin.mtkd_pack import main

    out = tmp_path_factory.mktemp("archive") / "asr_tiny.zip"
    with contextlib.chdir(recipe):
        main([*publish_recipe.COMMAND, "--out", str(out)])
    return out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fresh stub, which huggingface_hub of this process takes for the Hub."""
    with hub_stub.as_the_hub(monkeypatch, tmp_path) as hub:
        yield hub
