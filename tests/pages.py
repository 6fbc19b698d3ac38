"""The pages for users, and the commands that they give."""

import re
import shlex
from pathlib import Path

from builders import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += sorted(ROOT.glob("egs2/*/mtkd1/README.md"))
# What names that a reader chooses stand for.
PLACES = {"<corpus>": "librispeech_100", "egs2/mine/": "egs2/librispeech_100/"}


def commands(page: Path) -> list[str]:
    """Shell commands of a page's code blocks, one string each."""
    found = []
    text = page.read_text()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language in ("", "sh", "bash", "console"):
            found += block.replace("\\\n", " ").splitlines()
    found += re.findall(r"^    (\./\w+\.sh.*|[A-Z]+=\S+ \./\w+\.sh.*)$", text, re.M)
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in found)
    start = r"(\w+=\S+ )*(python|torchrun|\./\w+\.sh|egs2/|mtkd-)|\w+=\"|arecord"
    return [line for line in lines if re.match(start, line)]


def resolved(page: Path) -> list[list[str]]:
    """Words of each command of a page; its own variables and places are filled in."""
    found, values = [], dict(PLACES)
    for line in commands(page):
        for name, value in values.items():
            line = line.replace(name, value)
        assignment = re.match(r'(\w+)="(.*)"$', line)
        if assignment:
            values[f"${{{assignment[1]}}}"] = assignment[2]
            continue
        words = shlex.split(line)
        while "=" in words[0]:  # an environment variable before the command
            words.pop(0)
        found.append(words)
    return found
