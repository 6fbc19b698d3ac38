"""What the pages in docs/ quote and link to is there."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import builders
import pytest
from builders import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += sorted(ROOT.glob("egs2/*/mtkd1/README.md"))


def string_fragments() -> str:
    """All string constants of the package, and the text of the shell scripts."""
    parts = []
    for path in sorted(ROOT.glob("espnet_mtkd/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                values = (
                    v.value if isinstance(v, ast.Constant) else "{}"
                    for v in node.values
                )
                parts.append("".join(values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    parts += [p.read_text() for p in sorted(ROOT.glob("egs2/TEMPLATE/mtkd1/*.sh"))]
    parts += [p.read_text() for p in sorted(ROOT.glob("tools/*.sh"))]
    return "\n".join(parts)


def test_messages_that_troubleshooting_quotes_are_said_somewhere():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    rows = [x for x in page.splitlines() if x.startswith("| ") and "`" in x]
    source = string_fragments()
    quoted = [q for row in rows for q in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) > 15
    missing = [q for q in quoted if q not in source]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    named = re.findall(
        r"`((?:benchmarks|docs|examples|tools|tests|conf|espnet_mtkd|egs2/TEMPLATE)"
        r"/[\w/.]+)`",
        text,
    )
    for name in named:
        name = name.rstrip("./")
        if name.endswith(".conf"):  # ESPnet's, linked by setup.sh
            continue
        if name.startswith("conf"):  # a recipe's
            assert list(ROOT.glob(f"egs2/*/mtkd1/{name}")), name
        elif Path(name).name not in ("env.sh", "setup.log", "venv", "espnet"):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_that_commands_name_exist(page):
    for name in re.findall(r"-m (espnet_mtkd[\w.]*)", page.read_text()):
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


# ------------------------------------------------------------- commands

# What `...` and names in angle brackets stand for; --stage 99 checks options and files
# and then has nothing to do.
COMMON = "--train_set train --valid_set valid --test_sets test --stage 99"
PLACES = {"<corpus>": "asterisk"}


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


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with everything that the pages' commands name, empty."""
    folder = tmp_path_factory.mktemp("docs")
    recipe = builders.mirror_recipe(folder, "asterisk")
    setup = ROOT / "egs2/TEMPLATE/mtkd1/setup.sh"
    subprocess.run([setup, recipe], check=True, capture_output=True)
    for name in (
        "data/a/wav.scp",
        "data/b/wav.scp",
        "exp/asr_teacher/valid.loss.ave.pth",
    ):
        (recipe / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe / name).touch()
    return recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_commands_of_the_pages_are_accepted(page, recipe):
    """mtkd.sh and ladder.sh run for real, up to their first stage. What is Python runs
    in tests/egs2/test_librispeech_100.py, where there is something to run it on."""
    for words in resolved(page):
        script = words[0].removeprefix("./")
        if script in ("mtkd.sh", "ladder.sh"):
            options = [x for x in words[1:] if x != "..."]
            if script == "mtkd.sh":
                given = set(options)
                common = COMMON.split()
                for name, value in zip(common[::2], common[1::2], strict=True):
                    if name == "--stage" or name not in given:
                        options += [name, value]
            else:
                options += ["--stage", "99"]
            result = subprocess.run(
                [f"./{script}", *options],
                cwd=recipe,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert result.returncode == 0, (words, result.stdout[-500:])
        elif script.endswith("run.sh"):  # its options, one by one: it has no dry run
            folder = ROOT / Path(script).parent if "/" in script else page.parent
            scripts = [folder / "run.sh", *ROOT.glob("egs2/TEMPLATE/mtkd1/*.sh")]
            known = "".join(x.read_text() for x in scripts)
            for option in words[1:]:
                if option.startswith("--") and " " not in option:
                    assert re.search(rf"{option}\b", known), (words, option)
