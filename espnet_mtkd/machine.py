"""What machine this is, for logs and tables."""

import os
import platform
import re
from pathlib import Path


def machine(device: str = "cpu") -> str:
    """Cores, processor and system, and the GPU where `device` is one."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.*)$", info.read_text(), re.M)
        cpu = match[1] if match else cpu
    words = f"{os.cpu_count()} cores of {cpu}, {platform.system()}"
    if device.startswith("cuda"):
        import torch

        words += f", {torch.cuda.get_device_name(device)}"
    return words
