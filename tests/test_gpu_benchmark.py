"""benchmarks/gpu.sh on the CPU: each part runs, and one that fails is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import builders
import pytest

COMMAND = [sys.executable, str(builders.ROOT / "benchmarks/gpu.py"), "--device", "cpu"]
# Those that take less than half a minute; the others are tested where they live.
PARTS = {
    "precision": "stage 2, bfloat16: loss against the CPU's in float32",
    "step": "stage 2, sliced loss, kept teachers; bfloat16",
    "extraction": "with codes : without, float32",
    "paths": "V 5000",
    "ddp": "gloo, one process",
    "streaming": "streams side by side: 4",
    "compile": "not tried on a CPU",
}


def run(*options, **environment):
    return subprocess.run(
        [*COMMAND, *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_each_part_runs(tmp_path):
    table = tmp_path / "table.md"
    result = run("--only", " ".join(PARTS), "--out", str(table))
    assert result.returncode == 0, result.stderr[-4000:]
    assert table.read_text() == result.stdout
    lines = [x for x in result.stdout.splitlines() if x.startswith("| ")]
    for name, what in PARTS.items():
        rows = [x for x in lines if x.startswith(f"| {name} |")]
        assert any(what in x for x in rows), rows
        assert f"| {name} | time |" in rows[-1]


def test_a_part_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    without = "import sys; sys.modules['best_paths'] = None  # cannot be imported\n"
    (tmp_path / "sitecustomize.py").write_text(without)
    result = run("--only", "paths compile", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "| paths | **failed** | exit code 1: " in result.stdout
    assert "| compile | torch.compile of the encoder | not tried" in result.stdout


def test_options_that_are_not_there():
    result = run("--only", "steps")
    assert result.returncode == 2 and "expected cases precision step" in result.stderr


def test_its_end_by_a_signal_is_that_of_the_part_too():
    process = subprocess.Popen(
        [*COMMAND, "--only", "step"], stdout=subprocess.PIPE, text=True
    )

    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 120
    while not (parts := children.read_text().split()) and time.monotonic() < end:
        time.sleep(0.1)
    (part,) = map(int, parts)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert builders.session_of(part) == []
