"""The best path against an enumeration of all paths, and a loop over one utterance."""

import itertools

import pytest
import torch
import torchaudio

from espnet_mtkd.transducer import lattice_paths
from espnet_mtkd.transducer.kd import choose_tokens
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


def plain_best_path(blank_TU, label_TU):
    """Viterbi as a loop over the frames of one utterance."""
    T, columns = blank_TU.shape
    blank_TU, label_TU = blank_TU.double(), label_TU.double()
    sums_TU = torch.cat([blank_TU.new_zeros(T, 1), label_TU.cumsum(1)], 1)
    entries = torch.empty(T, columns, dtype=torch.long)
    entry = blank_TU.new_full((columns,), -torch.inf)
    entry[0] = 0.0
    for t in range(T):
        best, entries[t] = (entry - sums_TU[t]).cummax(0)
        entry = best + sums_TU[t] + blank_TU[t]
    frames, positions, u = [], [], columns - 1
    for t in range(T - 1, -1, -1):
        first = int(entries[t, u])
        positions += range(u, first - 1, -1)
        frames += [t] * (u - first + 1)
        u = first
    return torch.tensor(frames[::-1]), torch.tensor(positions[::-1]), float(entry[-1])


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
    expected = []
    with torch.no_grad():
        for h, g, labels_U in zip(hs, gs, labels, strict=True):
            logp = joint(h[:, None], g[None]).log_softmax(2)
            index = labels_U[None, :, None].expand(len(h), -1, 1)
            label = logp[:, :-1].gather(2, index)[..., 0]
            frames, positions, _ = plain_best_path(logp[..., 0], label)
            following = torch.cat([labels_U, torch.tensor([-1])])[positions]
            ids, values = choose_tokens(logp[frames, positions], 0, following, k)
            nodes = torch.stack([frames, positions], 1)
            expected.append((torch.cat([nodes, ids], 1).int(), values.half()))
        monkeypatch.setattr(lattice_paths, "CPU_LOGITS", limit)
        found = lattice_paths.path_nodes(joint, hs, gs, labels, 0, k)
    nodes, logp = (torch.cat(parts) for parts in zip(*expected, strict=True))
    assert torch.equal(found[0], nodes)
    torch.testing.assert_close(found[1], logp, rtol=2e-3, atol=2e-3)


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
