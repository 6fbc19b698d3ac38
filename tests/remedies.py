"""What messages and the page on troubles tell people to do, and which tests do it.

A test that makes a fault, reads its message and does what it says is marked

    @pytest.mark.remedy("a part of the message", ...)
"""

import ast
import functools
import re

from builders import ROOT

VERBS = (
    "add|apt|apt-get|arecord|awk|call|change|check|choose|convert|copy|correct|cut|"
    "decode|divide|download|end|extract|fetch|find|free|get|give|hf|iconv|install|"
    "leave|let|lower|make|name|open|pack|pip|publish|put|python|remove|rename|repair|"
    "resample|run|score|scripts|sed|segment|separate|set|sox|take|tools|train|use|"
    "utils|wait|write"
)
# Behind what was expected and found, or a string of its own.
TELLS = re.compile(rf"(: |\. |; |, or |\(|\n)`?({VERBS})[ /]", re.I)
ALONE = re.compile(
    r"(build|convert|copy|debian|download|fetch|leave|lower|name its|name the|put|"
    r"remove|repair|sox -t|take)[ :]",
    re.I,
)

# What no test here can do, and why.
UNTESTED = {
    "Exit code 1": "asks for a report",
    "CPU": "advice on speed, measured by benchmarks/training_step.py",
    "Import time": "nothing can be done",
    "The student is no better than scratch.": "what a long training does",
    "The cosine of one target stays near 0.": "what a long training does",
    "the two frame shifts do not belong together": "a fault of the data or of ours",
    "is missing: run": "sets up what the tests run in",
    "ESPnet is not importable": "sets up what the tests run in",
    "Debian: apt-get install sox": "installs on this machine",
    "Debian: apt-get install ffmpeg": "installs on this machine",
    "--source hub needs: pip install huggingface_hub": "installs, by a network",
    "pip is missing: python -m ensurepip": "installs on this machine",
    "s3prl.run_downstream is not importable": "installs, by a network",
    "--microphone: {}: `pip install sounddevice`": "installs, by a network",
    "CTranslate2 is not importable": "installs, by a network",
    "--pseudo_whisper needs CTranslate2": "installs, by a network",
    "--microphone: no device that gives": "needs a microphone",
    "expected a process for each GPU": "needs two GPUs",
    "check audio and teachers (python -m": "bad audio is refused before the first step",
    "its layers have different frame shifts": "no upstream that is tested has such",
}


def text_of(node: ast.AST) -> str | None:
    """A string of the source, `{}` where values go in; None: no string."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(x.value) if isinstance(x, ast.Constant) else "{}" for x in node.values
        )
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None


def is_help(node: ast.AST) -> bool:
    """Docstrings and the options of a parser."""
    if isinstance(node, ast.Expr) or getattr(node, "arg", "") == "help":
        return True
    name = getattr(getattr(node, "func", None), "attr", "")
    return name in ("add_argument", "ArgumentParser")


def strings_of(tree: ast.AST):
    """Whole strings of a module that are no help."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if is_help(node) and not isinstance(getattr(node, "value", None), ast.Call):
            continue
        text = text_of(node)
        if text is None:
            todo += ast.iter_child_nodes(node)
        else:
            yield text


@functools.cache
def messages() -> dict[str, str]:
    """Messages that say what to do -> the file in which they stand."""
    found = {}
    for path in sorted(ROOT.glob("espnet_mtkd/**/*.py")):
        where = str(path.relative_to(ROOT))
        for text in strings_of(ast.parse(path.read_text())):
            if "```" in text:  # of a model card
                continue
            alone = "/bin/" not in where and ALONE.match(text)
            if TELLS.search(text) or (alone and len(text) > 20):
                found[text] = where
    for path in sorted(ROOT.glob("egs2/TEMPLATE/mtkd1/*.sh")):
        source = re.sub(r"\\\n\s*", "", path.read_text())
        for line in re.findall(r"(?:fail|log) ((?:\"[^\"\n]*\" ?)+)", source):
            text = re.sub(r'" ?"', " ", line.strip().strip('"'))
            text = re.sub(r"\$\{[^}]*\}+|\$\([^)]*\)+", "{}", text)
            if TELLS.search(text):
                found[text] = str(path.relative_to(ROOT))
    return found


@functools.cache
def rows() -> dict[str, list[str]]:
    """Rows, points and sections of the page -> the keys under which a test has them."""
    found = {}
    for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| message"):
            cell = line.strip("| ").split(" | ")[0]
            found[cell] = re.findall(r"`([^`]+)`", cell) or [cell]
        elif line.startswith("- **"):
            found[line] = re.findall(r"\*\*(.+?)\*\*", line)
        elif re.match(r"## Exit code [136]:", line):
            found[line] = [line[3:].split(":")[0]]
    return found


@functools.cache
def claims() -> dict[str, list[str]]:
    """What tests are marked with -> the tests."""
    found = {}
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for call in ast.walk(ast.Module(node.decorator_list, [])):
                if getattr(getattr(call, "func", None), "attr", "") == "remedy":
                    test = f"{path.relative_to(ROOT)}::{node.name}"
                    for word in call.args:
                        found.setdefault(word.value, []).append(test)
    return found
