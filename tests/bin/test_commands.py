"""The names that an installation puts on PATH."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import builders
import pytest

MODULES = sorted(p.stem for p in (builders.ROOT / "espnet_mtkd/bin").glob("mtkd_*.py"))
COMMANDS = {
    "mtkd_asr_stream": "mtkd-stream",
    **{m: m.replace("_", "-") for m in MODULES if m != "mtkd_asr_stream"},
}


def test_every_module_of_bin_has_its_command_and_every_command_its_module():
    found = {
        entry.value: entry.name
        for entry in metadata.entry_points(group="console_scripts")
        if entry.value.startswith("espnet_mtkd.")
    }
    assert found == {f"espnet_mtkd.bin.{m}:main": c for m, c in COMMANDS.items()}


@pytest.mark.parametrize("module", MODULES)
def test_its_help_has_an_example_from_anywhere_and_waits_for_no_torch(module, tmp_path):
    command = COMMANDS[module]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [Path(sys.executable).parent / command, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**env, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {command} ")
    assert re.search("example:", result.stdout, re.I)
    assert f"python -m espnet_mtkd.bin.{module}" in result.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.M))
    assert f"espnet_mtkd.bin.{module}" in imported
    assert not {"torch", "espnet2.tasks", "transformers"} & imported


def test_help_of_training_shows_all_flags_where_they_are_asked_for(capsys):
    from espnet_mtkd.bin import mtkd_train

    def flags(parser):
        return {f for a in parser._actions for f in a.option_strings}

    every = flags(mtkd_train.get_parser())
    assert flags(mtkd_train.get_help_parser()) - every == {"--help_all"}
    with pytest.raises(SystemExit) as end:
        mtkd_train.main(["--help_all"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [flag for flag in every if flag not in text] == []
