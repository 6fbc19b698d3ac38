"""What the pages in docs/ quote and link to is there."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from builders import ROOT
from pages import PAGES, resolved


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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_of_run_sh_exist(page):
    """One by one: it has no dry run. All other commands of the pages run for real in
    tests/egs2/test_page_commands.py."""
    for words in resolved(page):
        script = words[0].removeprefix("./")
        if script.endswith("run.sh"):
            folder = ROOT / Path(script).parent if "/" in script else page.parent
            shown = subprocess.run(
                [folder / "run.sh", "--help"], capture_output=True, text=True
            ).stdout
            known = re.findall(r"^ +(--\w+) +#", shown, re.M)
            for option in words[1:]:
                if option.startswith("--") and " " not in option:
                    assert option in [*known, "--help"], words


def test_figures_of_the_demo_are_those_that_it_wrote():
    """In README, the recipe's README and docs/ablation.md."""
    recipe = ROOT / "egs2/asterisk/mtkd1"
    rows = re.findall(
        r"^\| conformer \| ([^|]*) \| test \| 735 \| ([\d.]+) \|[^|]*\| ([\d.]+) \|",
        (recipe / "RESULTS.md").read_text(),
        re.M,
    )
    assert [name for name, *_ in rows] == [
        "from scratch",
        "all teachers, kept in stage 2",
    ]
    (scratch, _), (taught, _) = (rates for _, *rates in rows)
    readme = (ROOT / "README.md").read_text()
    assert f"| no teacher | {scratch} |" in readme
    assert f"| Whisper tiny.en and base | **{taught}** |" in readme
    own = (recipe / "README.md").read_text()
    assert f"{scratch} % WER from scratch, {taught} % taught" in own
    trials = (ROOT / "docs/ablation.md").read_text()
    for _, wer, cer in rows:
        assert f"|{wer}|" in own and f"|{cer}|" in own  # ESPnet's tables
        assert f"| {wer}, {cer} |" in trials
