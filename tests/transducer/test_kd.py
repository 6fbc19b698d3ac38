"""Path distillation against whole distributions and plain loops."""

import math

import pytest
import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.kd import choose_tokens, path_kd_loss, place_nodes

N, V = 6, 9
NEXT = torch.tensor([3, 5, 1, -1, 8, -1])


def draw(seed: int):
    torch.manual_seed(seed)
    return (2 * torch.randn(N, V)).log_softmax(1), 2 * torch.randn(N, V)


def test_blank_and_next_label_come_first_then_the_likeliest():
    teacher, _ = draw(0)
    ids, logp = choose_tokens(teacher, 0, NEXT, 4)
    for n in range(N):
        order = teacher[n].argsort(descending=True).tolist()
        first = [0] if NEXT[n] < 0 else [0, int(NEXT[n])]
        others = [v for v in order if v not in first]
        assert ids[n].tolist() == [*first, *others][:4]
        assert torch.equal(logp[n], teacher[n, ids[n]])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_tokens_it_is_the_kl_divergence(temperature):
    teacher, logits = draw(1)
    ids, logp = choose_tokens(teacher, 0, NEXT, V)
    found = path_kd_loss(logits, ids, logp, NEXT >= 0, temperature)
    p = (teacher / temperature).softmax(1)
    q = (logits.log_softmax(1) / temperature).log_softmax(1)
    expected = (p * (p.log() - q)).sum(1) * temperature**2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant, k", [("topk", 3), ("collapsed", 5)])
def test_what_is_left_out_is_one_outcome(variant, k):
    """A loop over nodes and outcomes."""
    teacher, logits = draw(2)
    ids, logp = choose_tokens(teacher, 0, NEXT, k)
    found = path_kd_loss(logits, ids, logp, NEXT >= 0, variant=variant)
    for n in range(N):
        p, q = teacher[n].exp().tolist(), logits[n].softmax(0).tolist()
        kept = ids[n].tolist()
        if variant == "collapsed":
            kept = [0] if NEXT[n] < 0 else [0, int(NEXT[n])]
        outcomes = [[v] for v in kept] + [[v for v in range(V) if v not in kept]]
        expected = 0.0
        for tokens in outcomes:
            a, b = sum(p[v] for v in tokens), sum(q[v] for v in tokens)
            expected += a * math.log(a / b)
        assert float(found[n]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_temperature_softens_the_rest_as_one_outcome():
    """As documented: a loop; less than the divergence of all softened tokens."""
    teacher, logits = draw(5)
    ids, logp = choose_tokens(teacher, 0, NEXT, 3)
    found = path_kd_loss(logits, ids, logp, NEXT >= 0, 4.0)
    whole = torch.nn.functional.kl_div(
        (logits / 4).log_softmax(1),
        (teacher / 4).log_softmax(1),
        reduction="none",
        log_target=True,
    ).sum(1)
    for n in range(N):
        folded = []
        for x in (teacher[n].exp(), logits[n].softmax(0)):
            kept = x[ids[n]].tolist()
            soft = [v ** (1 / 4) for v in [*kept, 1 - sum(kept)]]
            folded.append([v / sum(soft) for v in soft])
        expected = sum(a * math.log(a / b) for a, b in zip(*folded, strict=True))
        assert float(found[n]) == pytest.approx(16 * expected, rel=1e-3, abs=1e-3)
    assert float(found.sum()) < 16 * float(whole.sum())


@pytest.mark.parametrize("variant", ["topk", "collapsed"])
@pytest.mark.parametrize("k", [2, 4, V])
def test_it_is_zero_with_a_zero_gradient_where_both_agree(variant, k):
    teacher, _ = draw(3)
    ids, logp = choose_tokens(teacher, 0, NEXT, k)
    logits = teacher.clone().requires_grad_()
    loss = path_kd_loss(logits, ids, logp, NEXT >= 0, 2.0, variant).sum()
    (grad,) = torch.autograd.grad(loss, logits)
    assert abs(float(loss)) < 1e-4
    assert grad.isfinite().all()
    assert grad.abs().max() < 1e-4


def test_certain_teachers_and_students_give_finite_gradients():
    teacher = torch.full((N, V), -40.0)
    teacher[:, 0] = 0.0
    ids, logp = choose_tokens(teacher, 0, NEXT, 4)
    logits = torch.full((N, V), -60.0)
    logits[:, 4] = 60.0
    logits.requires_grad_()
    for variant in ("topk", "collapsed"):
        loss = path_kd_loss(logits, ids, logp.half(), NEXT >= 0, variant=variant).sum()
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert grad.isfinite().all()


def test_another_variant_is_refused():
    teacher, logits = draw(4)
    ids, logp = choose_tokens(teacher, 0, NEXT, 4)
    with pytest.raises(ConfigError, match="expected one of .* found 'all'"):
        path_kd_loss(logits, ids, logp, NEXT >= 0, variant="all")


def test_nodes_at_the_same_rate_stay_where_they_are():
    frames = torch.tensor([0, 0, 1, 2, 2])
    positions = torch.tensor([0, 1, 1, 1, 2])
    student, numbers = place_nodes(frames, positions, 640, 640, 0, 3)
    assert student.tolist() == frames.tolist()
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    student, numbers = place_nodes(frames, positions, 640, 640, 2, 3)
    assert student.tolist() == [2, 2]
    assert numbers.tolist() == [0, 1]


def test_of_nodes_that_fall_together_the_one_that_leaves_is_kept():
    # Blank at 0, label at 1, blank at 1, blanks at 2 and 3: two student frames.
    frames = torch.tensor([0, 1, 1, 2, 3])
    positions = torch.tensor([0, 0, 1, 1, 1])
    student, numbers = place_nodes(frames, positions, 320, 640, 0, 2)
    assert student.tolist() == [0, 0, 1]
    assert numbers.tolist() == [1, 2, 4]
