"""The best path against an enumeration of all paths."""

import itertools

import pytest
import torch
import torchaudio

from espnet_mtkd.transducer.path import best_path


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
