"""Scores as ESPnet's stage 13 leaves them, by the real sclite, and what is right."""

import os
import shutil
import subprocess
from pathlib import Path

import builders
import numpy as np
import pytest


def find_sclite() -> str | None:
    """sclite on PATH, or where tools/setup.sh found or put it."""
    env = builders.ROOT / "tools/env.sh"
    folders = os.environ["PATH"]
    if env.is_file():
        command = f". {env} && echo ${{MTKD_SCLITE_DIR}}"
        folder = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=True
        ).stdout.strip()
        folders = f"{folders}{os.pathsep}{folder}"
    return shutil.which("sclite", path=folders)


SCLITE = find_sclite()
needs_sclite = pytest.mark.skipif(SCLITE is None, reason="no sclite: tools/setup.sh")

REFERENCE = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "PLEASE PRESS ONE",
    "THANK YOU",
    "GOODBYE",
]
HYPOTHESES = {
    "scratch": ["THE BROWN FAX JUMPED OVER A A DOG", "PRESS TWO TWO", "", "GOOD BYE"],
    "taught": ["THE QUICK BROWN FOX JUMPS A DOG", "PRESS ONE", "THANK YOU", "BYE"],
    "perfect": REFERENCE,
}


def edit_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein distance, by the textbook's table."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0] = range(len(a) + 1)
    table[0] = range(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y)
            )
    return int(table[-1, -1])


def tokens(text: str, unit: str) -> list[str]:
    """Words, or characters with `<space>` between words, as ESPnet scores them."""
    if unit == "wer":
        return text.split()
    return ["<space>" if c == " " else c for c in text]


def score(
    asr_exp: Path,
    hypotheses,
    dset="test",
    decoding="decode_asr",
    references=REFERENCE,
) -> None:
    """Write references and hypotheses as ESPnet's stage 13 does, and run sclite."""
    for unit in ("wer", "cer"):
        folder = asr_exp / decoding / dset / f"score_{unit}"
        folder.mkdir(parents=True)
        for name, texts in (("ref", references), ("hyp", hypotheses)):
            (folder / f"{name}.trn").write_text(
                "".join(
                    f"{' '.join(tokens(text, unit))}\t(spk-utt{i})\n"
                    for i, text in enumerate(texts)
                )
            )
        with open(folder / "result.txt", "w") as result:
            subprocess.run(
                [SCLITE, "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
                + ["-i", "rm", "-o", "all", "stdout"],
                cwd=folder,
                stdout=result,
                check=True,
            )


def error_rate(hypotheses, unit: str) -> float:
    pairs = [
        (tokens(r, unit), tokens(h, unit))
        for r, h in zip(REFERENCE, hypotheses, strict=True)
    ]
    return 100 * sum(edit_distance(*p) for p in pairs) / sum(len(r) for r, _ in pairs)


def cells(line: str) -> list[str]:
    return [c.strip() for c in line.strip().strip("|").split("|")]
