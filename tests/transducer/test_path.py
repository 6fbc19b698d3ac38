"""The best path against an enumeration of all paths, and a loop over one utterance."""

import itertools

import pytest
import torch
import torchaudio
from plain_path import plain_best_path, plain_nodes

from espnet_mtkd.transducer import lattice_paths
from espnet_mtkd.transducer.extract_paths import find_path
from espnet_mtkd.transducer.path import best_path, best_paths


def all_paths(T: int, U: int):
    """Every order of T - 1 blanks and U labels; the last blank is at (T - 1, U)."""
    steps = T - 1 + U
    for labels in itertools.combinations(range(steps), U):
        t, u, nodes = 0, 0, []
        for step in range(steps):
            nodes.append((t, u))
            if step in labels:
                u += 1
            else:
                t += 1
        yield [*nodes, (T - 1, U)]


def score(nodes, blank, label):
    total = 0.0
    for (t, u), (_, after) in itertools.pairwise(nodes):
        total += float(label[t, u] if after > u else blank[t, u])
    t, u = nodes[-1]
    return total + float(blank[t, u])


@pytest.mark.parametrize("T, U", [(1, 0), (1, 3), (4, 0), (2, 2), (5, 3), (3, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_path_is_likelier(T, U, seed):
    torch.manual_seed(seed)
    logp = (2 * torch.randn(T, U + 1, 2)).log_softmax(2)
    blank, label = logp[..., 0], logp[:, :U, 1]
    frames, positions, found = best_path(blank, label)
    nodes = list(zip(frames.tolist(), positions.tolist(), strict=True))
    assert len(nodes) == T + U
    best = max(all_paths(T, U), key=lambda p: score(p, blank, label))
    assert nodes == best
    assert found == pytest.approx(score(best, blank, label), abs=1e-5)


def test_the_best_path_is_at_most_as_likely_as_all_together():
    torch.manual_seed(0)
    T, U, V = 40, 12, 9
    logits = torch.randn(1, T, U + 1, V)
    labels = torch.randint(1, V, (1, U), dtype=torch.int32)
    logp = logits[0].log_softmax(2)
    label = logp[:, :U].gather(2, labels[0].long()[None, :, None].expand(T, U, 1))
    *_, found = best_path(logp[..., 0], label[..., 0])
    loss = torchaudio.functional.rnnt_loss(
        logits,
        labels,
        torch.tensor([T], dtype=torch.int32),
        torch.tensor([U], dtype=torch.int32),
        blank=0,
    )
    assert found < -float(loss)
    assert found > 20 * -float(loss)


SIZES = [(1, 0), (9, 4), (30, 1), (12, 12), (1, 3), (25, 7)]


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 5.0])  # 0: all ties
def test_paths_of_a_batch_are_those_of_each_utterance(sharpness):
    torch.manual_seed(0)
    T, U = (max(sizes) for sizes in zip(*SIZES, strict=True))
    logp = (sharpness * torch.randn(len(SIZES), T, U + 1, 6)).log_softmax(3)
    blank, label = logp[..., 0], logp[:, :, :U, 1]
    sizes = torch.tensor(SIZES)
    frames, positions, scores = best_paths(blank, label, sizes[:, 0], sizes[:, 1])
    for b, (T, U) in enumerate(SIZES):
        expected = plain_best_path(blank[b, :T, : U + 1], label[b, :T, :U])
        assert torch.equal(frames[b, : T + U], expected[0])
        assert torch.equal(positions[b, : T + U], expected[1])
        assert float(scores[b]) == expected[2]


@pytest.mark.parametrize("limit", [1, 40, 10**9])
def test_stored_nodes_are_those_of_the_whole_lattice(monkeypatch, limit):
    """Whatever part of the logits is computed at a time."""
    from espnet2.asr_transducer.joint_network import JointNetwork

    torch.manual_seed(1)
    V, D, k = 11, 8, 4
    joint = JointNetwork(V, D, D, joint_space_size=16)
    torch.nn.init.normal_(joint.lin_out.weight, std=2.0)
    hs = [torch.randn(T, D) for T, _ in SIZES]
    gs = [torch.randn(U + 1, D) for _, U in SIZES]
    labels = [torch.randint(1, V, (U,)) for _, U in SIZES]
    with torch.no_grad():
        expected = [
            plain_nodes(joint, *x, 0, k) for x in zip(hs, gs, labels, strict=True)
        ]
        monkeypatch.setattr(lattice_paths, "CPU_LOGITS", limit)
        found = lattice_paths.path_nodes(joint, hs, gs, labels, 0, k)
        whole = [
            find_path(joint(h[:, None], g[None]), x.numpy(), 0, k)
            for h, g, x in zip(hs, gs, labels, strict=True)
        ]
    nodes, logp = (torch.cat(parts) for parts in zip(*expected, strict=True))
    assert torch.equal(found[0], nodes)
    torch.testing.assert_close(found[1], logp, rtol=2e-3, atol=2e-3)
    for a, b in zip(whole, expected, strict=True):
        assert (a[0] == b[0].numpy()).all()
        assert a[1] == pytest.approx(b[1].numpy(), rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("token", [0, 3, 9])  # the blank, a label, neither
def test_a_lattice_with_one_logit_that_is_not_finite_is_named(token, value):
    torch.manual_seed(2)
    hs = [torch.randn(T, 10) for T in (9, 30, 4)]
    gs = [torch.zeros(3, 10) for _ in hs]
    labels = [torch.tensor([3, 1]) for _ in hs]
    hs[1][17, token] = value

    class Sum(torch.nn.Module):
        """Of both inputs: so one logit can be chosen."""

        lin_out = torch.nn.Linear(10, 10)

        def forward(self, h, g):
            return h + g

    found = lattice_paths.align(Sum(), hs, gs, labels, 0)
    assert [bool(x) for *_, x in found] == [True, False, True]
