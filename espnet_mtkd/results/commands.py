"""The command that a decoding was made by, as its log has it."""

import shlex
from pathlib import Path

MODULES = {  # that decode -> their logs, beside the scores
    "espnet2.bin.asr_inference": "logdir/asr_inference.*.log",
    "espnet_mtkd.bin.mtkd_asr_stream": "stream.log",
}


def decoding_arguments(folder: Path) -> list[str] | None:
    """Arguments of the decoder of one test set.

    ESPnet's launchers (`run.pl`, `queue.pl`, `slurm.pl`) write the command into the
    first lines of a log, behind `# `, with quotes about words that have spaces.

    Args:
        folder: of one decoding and test set.

    Returns:
        What stands behind the module's name; None where no log tells.
    """
    for module, pattern in MODULES.items():
        for log in sorted(folder.glob(pattern)):
            with open(log, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if not line.startswith("#"):
                        break
                    words = _split(line[1:])
                    if module in words:
                        return words[words.index(module) + 1 :]
    return None


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that does not end
        return []


def argument(arguments: list[str] | None, name: str) -> str | None:
    """Value of the last `--name value` or `--name=value`; None where there is none."""
    value = None
    words = list(arguments or [])
    for i, word in enumerate(words):
        if word == f"--{name}":
            value = " ".join(words[i + 1 : i + 2]) or None
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value
