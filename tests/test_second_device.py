"""Where tensors lie: what trains on the CPU must not fail on the first GPU."""

import subprocess
from pathlib import Path

CASES = Path(__file__).with_name("second_device_cases.py")


def test_all_computes_on_another_device_as_on_the_cpu(warm_python):
    """In a process of their own: they register a backend with PyTorch."""
    run = subprocess.run(
        [warm_python, "-m", "pytest", "-q", str(CASES)],
        cwd=CASES.parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    assert " passed" in run.stdout
