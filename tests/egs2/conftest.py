"""What the recipes' tests share: a Python that starts at once."""

import subprocess
import sys
import time
from pathlib import Path

import builders
import pytest

SERVER = builders.ROOT / "tests/warm_python.py"


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory) -> Path:
    """An interpreter for a recipe's `--python`: see `warm_python.py`."""
    folder = tmp_path_factory.mktemp("warm")
    path = folder / "socket"
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, SERVER, "serve", path], stdout=log, stderr=log
        )
    try:
        while not path.exists():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        command = folder / "python3"
        command.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -IS "{SERVER}" run "{path}" "$@"\n'
        )
        command.chmod(0o755)
        yield command
    finally:
        server.kill()
        server.wait()
