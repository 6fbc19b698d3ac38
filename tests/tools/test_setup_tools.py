"""What tools/ brings: the RNN-T loss and the edit distance that ESPnet imports; and the
style that CONTRIBUTING asks for."""

import importlib.util
import itertools
import math
import shutil
import subprocess
import sys
from pathlib import Path

import builders
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = builders.ROOT


def load_shim(name: str):
    """A shim's module, also where the real package is installed."""
    path = ROOT / "tools/shims" / name / "__init__.py"
    spec = importlib.util.spec_from_file_location(f"shim_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RNNTLoss = load_shim("warprnnt_pytorch").RNNTLoss


def by_paths(log_probs, labels) -> torch.Tensor:
    """-log of the sum over ALL alignments, each multiplied out; no dynamic programme.

    Args:
        log_probs: (T, U + 1, V) in float64.
        labels: U numbers.
    """
    T, U = len(log_probs), len(labels)
    # An alignment: in which of the T - 1 + U steps before the last blank a label comes.
    totals = []
    for where in itertools.combinations(range(T - 1 + U), U):
        t = u = 0
        total = 0.0
        for step in range(T - 1 + U):
            if step in where:
                total = total + log_probs[t, u, labels[u]]
                u += 1
            else:
                total = total + log_probs[t, u, 0]
                t += 1
        totals.append(total + log_probs[t, u, 0])
    return -torch.logsumexp(torch.stack(totals), 0)


def by_lattice(log_probs, labels) -> float:
    """The same by the forward variables of Graves' equation 16, in plain floats."""
    T, U = len(log_probs), len(labels)
    p = log_probs.tolist()
    alpha = [[-math.inf] * (U + 1) for _ in range(T)]
    for t in range(T):
        for u in range(U + 1):
            terms = [0.0] if t == u == 0 else []
            if t > 0:
                terms.append(alpha[t - 1][u] + p[t - 1][u][0])
            if u > 0:
                terms.append(alpha[t][u - 1] + p[t][u - 1][labels[u - 1]])
            top = max(terms)
            alpha[t][u] = top + math.log(sum(math.exp(x - top) for x in terms))
    return -(alpha[-1][-1] + p[-1][-1][0])


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=3),
    st.integers(0, 999),
)
def test_rnnt_loss_and_gradient_are_those_of_all_alignments(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    V = 4
    T, U = (max(x) for x in zip(*sizes, strict=True))
    logits = torch.randn(len(sizes), T, U + 1, V, generator=generator)
    labels = torch.randint(1, V, (len(sizes), U), generator=generator)
    ours = logits.clone().requires_grad_()
    losses = RNNTLoss(blank=0, reduction="none")(
        ours,
        labels,
        torch.tensor([t for t, _ in sizes]),
        torch.tensor([u for _, u in sizes]),
    )
    theirs = logits.double().requires_grad_()
    expected = []
    for b, (t, u) in enumerate(sizes):
        log_probs = theirs[b, :t, : u + 1].log_softmax(-1)
        expected.append(by_paths(log_probs, labels[b, :u].tolist()))
        lattice = by_lattice(log_probs.detach(), labels[b, :u].tolist())
        assert expected[-1].item() == pytest.approx(lattice, rel=1e-9)
    expected = torch.stack(expected)
    torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-5)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-4)


def test_rnnt_reductions():
    torch.manual_seed(0)
    args = (
        torch.randn(3, 4, 3, 5),
        torch.randint(1, 5, (3, 2)),
        torch.tensor([4, 3, 2]),
        torch.tensor([2, 1, 2]),
    )
    each = RNNTLoss(reduction="none")(*args)
    assert each.shape == (3,)
    torch.testing.assert_close(RNNTLoss(reduction="sum")(*args), each.sum())
    torch.testing.assert_close(RNNTLoss(reduction="mean")(*args), each.mean())


@pytest.mark.parametrize("wrong", [dict(fastemit_lambda=0.1), dict(reduction="max")])
def test_what_the_shim_cannot_do_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RNNTLoss(**wrong)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_distance_is_levenshteins(a, b):
    table = {(i, 0): i for i in range(len(a) + 1)}
    table |= {(0, j): j for j in range(len(b) + 1)}
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y)
            )
    distance = load_shim("editdistance").eval
    assert distance(a, b) == table[len(a), len(b)]
    assert distance(list(a), list(b)) == table[len(a), len(b)]


# ------------------------------------------------------------- style


def tracked(*patterns) -> list[str]:
    """Files of the project, those not yet added included; no links."""
    out = subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-co",
            "--exclude-standard",
            "--",
            *patterns,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = sorted(set(out.splitlines()))
    return [f for f in files if (ROOT / f).is_file() and not (ROOT / f).is_symlink()]


def tool(name: str) -> str:
    """A command of the environment that the tests run in."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is missing beside {sys.executable}: tools/setup.sh"
    return found


in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")


@in_git
def test_shell_scripts_are_shellcheck_clean():
    scripts = tracked("*.sh", ".ci/run")
    assert len(scripts) >= 8
    result = subprocess.run(
        # What ESPnet's path.sh, cmd.sh and utils/ bring is not followed.
        [tool("shellcheck"), "--exclude=SC1091,SC2154", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@in_git
@pytest.mark.parametrize("check", [["check"], ["format", "--diff"]], ids=lambda x: x[0])
def test_python_is_ruff_clean(check):
    result = subprocess.run(
        [tool("ruff"), *check, "--no-cache", *tracked("*.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@in_git
def test_scripts_are_executable():
    sourced = {"path.sh", "cmd.sh", "extra_path.sh", "activate_python.sh", "env.sh"}
    for file in tracked("*.sh", ".ci/run"):
        if Path(file).name not in sourced:
            assert (ROOT / file).stat().st_mode & 0o100, file
