"""Our recipes inside an ESPnet checkout, copied there or linked."""

import os
import shutil
import subprocess

import builders
import pytest

TEMPLATE = builders.ROOT / "egs2/TEMPLATE/mtkd1"
DATA_SH = """#!/usr/bin/env bash
mkdir -p data
cp -r {corpus}/train {corpus}/valid data
cp -r {corpus}/valid data/test
"""


@pytest.fixture
def checkout(tmp_path):
    """ESPnet's tree with an environment of its own, as its installer leaves it."""
    espnet = builders.ROOT / "tools/espnet"
    root = tmp_path / "espnet"
    (root / "egs2/TEMPLATE").mkdir(parents=True)
    (root / "egs2/TEMPLATE/asr1").symlink_to(espnet / "egs2/TEMPLATE/asr1")
    for name in ("espnet", "espnet2"):
        (root / name).symlink_to(espnet / name)
    (root / "tools").mkdir()
    venv = builders.ROOT / "tools/venv/bin"
    (root / "tools/activate_python.sh").write_text(f"export PATH={venv}:$PATH\n")
    (root / "tools/extra_path.sh").write_text("")
    (root / "egs2/mine").mkdir()
    return root


def write_corpus(folder):
    for name, num_utts, seed in (("train", 6, 1), ("valid", 3, 2)):
        data = builders.build_data_dir(folder / name, num_utts, seed)
        (data / "speech_shape").unlink()
        utts = [x.split()[0] for x in (data / "text").read_text().splitlines()]
        (data / "utt2spk").write_text("".join(f"{u} {u}\n" for u in utts))
        (data / "spk2utt").write_text("".join(f"{u} {u}\n" for u in utts))
    return folder


@pytest.mark.parametrize("how", ["copied", "linked"])
@pytest.mark.remedy(
    "neither {}/tools/env.sh",
)
def test_a_recipe_runs_with_the_checkout_around_it(checkout, tmp_path, how):
    (tmp_path / "ours").mkdir()
    source = builders.mirror_recipe(tmp_path / "ours", "asterisk")
    corpus = write_corpus(tmp_path / "corpus")
    (source / "local/data.sh").write_text(DATA_SH.format(corpus=corpus))
    recipe = checkout / "egs2/mine/mtkd1"
    if how == "copied":
        shutil.copytree(TEMPLATE, checkout / "egs2/TEMPLATE/mtkd1", symlinks=True)
        shutil.copytree(source, recipe, symlinks=True)
    else:
        (checkout / "egs2/TEMPLATE/mtkd1").symlink_to(TEMPLATE)
        recipe.symlink_to(source)
    environment = {k: v for k, v in os.environ.items() if k != "ESPNET_ROOT"}

    def run(*command, cwd):
        result = builders.run_group(command, cwd, environment)
        assert result.returncode == 0, result.stdout[-3000:]
        return result.stdout

    run("egs2/TEMPLATE/mtkd1/setup.sh", "egs2/mine/mtkd1", cwd=checkout)
    for path in (*recipe.iterdir(), *(recipe / "conf").iterdir()):
        assert path.exists(), f"{path} points nowhere"
    command = [
        *("./mtkd.sh", "--train_set", "train", "--valid_set", "valid"),
        *("--test_sets", "test", "--token_type", "char", "--lang", "en"),
        *("--teachers", "none", "--stop_stage", "5", "--nj", "1"),
    ]
    run(*command, cwd=recipe)
    assert (recipe / "data/en_token_list/char/tokens.txt").stat().st_size > 0
    assert len((recipe / "dump/raw/train/wav.scp").read_text().splitlines()) == 6
    again = run(*command, cwd=recipe)
    assert again.count("finished before") == 1 + 3 + 2 + 1  # 3: each set; 4: test too


def test_without_espnet_the_message_names_both_ways(tmp_path):
    shutil.copytree(TEMPLATE, tmp_path / "egs2/TEMPLATE/mtkd1", symlinks=True)
    result = subprocess.run(
        ["egs2/TEMPLATE/mtkd1/setup.sh", "egs2/mine/mtkd1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "tools/setup.sh" in result.stdout and "TEMPLATE/asr1" in result.stdout
