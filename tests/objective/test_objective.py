"""The whole objective, with each of its options, against a computation by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_objectives import (
    H_LENGTHS,
    SPECS,
    E,
    M,
    T,
    batch,
    build,
    code_spec,
    fit,
    spec,
)

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.options import (
    BALANCES,
    HEADS,
    LAYERS,
    STANDARDIZE,
)


def num_heard(blocks):
    """Outputs that heads on these blocks take."""
    return {"last": 1, "ladder": 3}[blocks] if isinstance(blocks, str) else len(blocks)


def distance(predicted, target, delay=0):
    """L1 + 1 - cosine of valid frames, by a loop; their number."""
    total, num = 0.0, 0
    for b, length in enumerate(H_LENGTHS.tolist()):
        for t in range(length - delay):
            num += 1
            for r in range(2):
                p, y = predicted[b, t + delay, r], target[b, 2 * t + r]
                cosine = p @ y / np.linalg.norm(p) / np.linalg.norm(y)
                total += (np.abs(p - y).mean() + 1 - cosine) / 2
    return total / num


def numpy(x):
    return x.detach().double().numpy()


def linear(module, x):
    return x @ numpy(module.weight).T + numpy(module.bias)


def gelu(x):
    return numpy(torch.nn.functional.gelu(torch.from_numpy(x)))


def layer_norm(x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def standardised(target):
    x = numpy(target)
    frames = np.concatenate([x[0], x[1, :14]])
    return (x - frames.mean(0)) / frames.std(0)


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("blocks", ["last", [1, 3], "ladder"])
@pytest.mark.parametrize("head", HEADS)
def test_heads_on_blocks_are_what_their_formulas_say(head, blocks, delay):
    objective = build(delay=delay, num_blocks=3, head=head, blocks=blocks, hidden=6)
    hs, targets = batch(num_blocks=num_heard(blocks))
    fit(objective, targets)
    loss, stats, num_frames = objective(hs, H_LENGTHS, targets)

    def by_head(module, x):
        if head == "mlp":
            assert module.inner[0].out_features == 6
            x, module = gelu(linear(module.inner[0], x)), module.outer
        return linear(module.linear, x).reshape(2, T, 2, E)

    # Of three blocks the last is the encoder's output and normed already.
    h = [numpy(x) for x in hs]
    h = [*(layer_norm(x) for x in h[:-1]), h[-1]]
    expected = {}
    for s in SPECS:
        module = objective.heads[s.name]
        if blocks == "last":
            predictions = [by_head(module, h[0])]
        elif blocks == "ladder":
            pairs = zip(module.projections, h, strict=True)
            z = sum(linear(project, x) for project, x in pairs)
            predictions = [by_head(module.head, z)]
        else:
            predictions = [by_head(m, x) for m, x in zip(module, h, strict=True)]
        target = standardised(targets[s.name][0])
        values = [distance(p, target, delay) for p in predictions]
        expected[s.name] = np.mean(values)
        assert stats[f"loss_{s.name}"].item() == pytest.approx(np.mean(values))
        assert f"cosine_{s.name}" in stats
        assert (f"cosine_{s.name}_block1" in stats) == isinstance(blocks, list)
    weights = {"a_l3": 1.0, "b_l1": 0.25, "b_l4": 0.25}
    total = sum(weights[name] * value for name, value in expected.items()) / 1.5
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert objective.weighted_mean(stats).item() == pytest.approx(total, rel=1e-5)
    assert num_frames.item() == sum(n - delay for n in H_LENGTHS.tolist())


@pytest.mark.parametrize("layers", ["mean", "mixed"])
def test_layers_of_a_teacher_are_one_target(layers):
    objective = build(layers=layers)
    (h,), targets = batch()
    fit(objective, targets)
    loss, stats, _ = objective(h, H_LENGTHS, targets)
    assert set(objective.heads) == {"a", "b"}
    x, y = (standardised(targets[f"b_l{n}"][0]) for n in (1, 4))
    mean = (x + y) / 2
    frames = np.concatenate([mean[0], mean[1, :14]])
    mean /= np.sqrt(np.square(frames).mean())
    values = {"a": standardised(targets["a_l3"][0]), "b": mean}
    for name, target in values.items():
        module = objective.heads[name].linear
        p = linear(module, numpy(h)).reshape(2, T, 2, E)
        values[name] = distance(p, target)
        found = stats[f"loss_{name}"].item()
        assert found == pytest.approx(values[name], rel=1e-4)
    expected = (values["a"] + 0.5 * values["b"]) / 1.5
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert stats["share_b_l1"].item() == stats["share_b_l4"].item() == 0.5
    loss.backward()
    learnt = {n: p.grad for n, p in objective.named_parameters() if "means" in n}
    assert len(learnt) == (layers == "mixed")
    assert all(gradient.isfinite().all() for gradient in learnt.values())


def test_codes_beside_embeddings_have_heads_and_a_weight_of_their_own():
    specs = [*SPECS, *map(code_spec, SPECS)]
    objective = build(specs, EmbeddingLoss(codes=0.1))
    (h,), targets = batch(specs)
    fit(objective, targets)
    loss, stats, _ = objective(h, H_LENGTHS, targets)
    total = 0.0
    for s in SPECS:
        p = linear(objective.heads[s.name].linear, numpy(h)).reshape(2, T, 2, E)
        value = distance(p, standardised(targets[s.name][0]))
        head = objective.heads[f"{s.name}_codes"]
        logits = linear(head.linear, numpy(h)).reshape(2, T, 2, M, 256)
        codes = targets[f"{s.name}_codes"][0].numpy()
        entropies, hits = [], []
        for b, length in enumerate(H_LENGTHS.tolist()):
            for t in range(length):
                for r in range(2):
                    for m in range(M):
                        x, code = logits[b, t, r, m], codes[b, 2 * t + r, m]
                        entropies.append(np.log(np.exp(x).sum()) - x[code])
                        hits.append(x.argmax() == code)
        value += 0.1 * np.mean(entropies)
        assert stats[f"loss_{s.name}"].item() == pytest.approx(value, rel=1e-5)
        accuracy = stats[f"accuracy_{s.name}_codes"].item()
        assert accuracy == pytest.approx(np.mean(hits))
        total += s.weight / 1.5 * value
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_codes_alone_are_as_they_were():
    specs = [dataclasses.replace(code_spec(s), name=s.name) for s in SPECS]
    objective = build(specs, CodebookLoss())
    (h,), targets = batch(specs)
    _, stats, _ = objective(h, H_LENGTHS, targets)
    assert objective.is_standardized and not objective.standardizers
    assert {f"accuracy_{s.name}" for s in specs} < set(stats)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("blocks", ["last", "ladder", [2, 3]])
def test_every_parameter_learns_and_the_state_is_whole(balance, layers, blocks):
    options = dict(balance=balance, layers=layers, blocks=blocks, clip=2.0)
    objective = build(num_blocks=3, **options)
    hs, targets = batch(num_blocks=num_heard(blocks))
    fit(objective, targets)
    loss, _, _ = objective(hs, H_LENGTHS, targets)
    loss.backward()
    without = [n for n, p in objective.named_parameters() if p.grad is None]
    assert without == []  # which DDP would wait for
    other = build(num_blocks=3, **options)
    other.load_state_dict(objective.state_dict())
    assert other.is_standardized
    for one in (objective, other):
        torch.manual_seed(1)
        one.results = (
            one(hs, H_LENGTHS, targets)[0],
            one.eval()(hs, H_LENGTHS, targets)[0],
        )
    for found, expected in zip(other.results, objective.results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("standardize", STANDARDIZE)
def test_each_way_of_standardising_trains(standardize):
    objective = build(standardize=standardize, layers="mixed")
    (h,), targets = batch()
    fit(objective, targets)
    loss, _, _ = objective(h, H_LENGTHS, targets)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in objective.parameters())


def test_the_default_has_the_parameters_and_buffers_that_it_had():
    names = {
        f"{kind}.{s.name}.{leaf}"
        for s in SPECS
        for kind, leaves in (
            ("heads", ("linear.weight", "linear.bias")),
            ("standardizers", ("mean", "std", "num_frames")),
        )
        for leaf in leaves
    }
    assert set(build().state_dict()) == names


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match="found none of a_l3, b_l1, b_l4"):
        build(loss=EmbeddingLoss(codes=1.0))
    with pytest.raises(ConfigError, match="codes have no mean: expected each"):
        build([*SPECS, *map(code_spec, SPECS)], EmbeddingLoss(codes=1.0), layers="mean")
    with pytest.raises(ConfigError, match="codes have no mean: expected each"):
        build([code_spec(s) for s in SPECS], CodebookLoss(), layers="mixed")
    with pytest.raises(ConfigError, match="teacher 'b'.*take layers: each"):
        build([spec("b", 1), spec("b", 2, dim=7)], layers="mean")
    with pytest.raises(ConfigError, match="the blocks 1 to 3, found"):
        build(num_blocks=3, blocks=[2, 4])
