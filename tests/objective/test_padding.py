"""Padded frames teach nothing: neither by what stands in them nor by being there."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_objectives import H_LENGTHS, SPECS, E, M, T, batch, build, code_spec, fit

from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.options import BALANCES, LAYERS, STANDARDIZE

NUM_TARGETS = 14  # valid frames of the second utterance's targets
RUBBISH = [math.nan, math.inf, 1e6]
LOSSES = {
    "l1": EmbeddingLoss(l1=1.0, mse=0.0, cosine=0.0),
    "mse": EmbeddingLoss(l1=0.0, mse=1.0, cosine=0.0),
    "cosine": EmbeddingLoss(l1=0.0, mse=0.0, cosine=1.0),
    "all, with codes": EmbeddingLoss(l1=1.0, mse=0.5, cosine=1.0, codes=0.1),
    "codes": CodebookLoss(),
}


def specs_of(loss):
    if isinstance(loss, CodebookLoss):
        return [code_spec(s) for s in SPECS]
    return [*SPECS, *map(code_spec, SPECS)] if loss.codes else SPECS


def num_outputs(objective):
    return 1 if objective.blocks is None else len(objective.blocks)


def padded_with(value, hs, targets):
    """Copies of a batch with other values behind its second utterance."""
    hs = [h.clone() for h in hs]
    for h in hs:
        h[1, H_LENGTHS[1] :] = value
    out = {}
    for name, (target, lengths) in targets.items():
        target = target.clone()
        is_code = target.dtype == torch.uint8
        target[1, NUM_TARGETS:] = 255 if is_code and value != 0 else value
        out[name] = target, lengths
    return hs, out


def results(objective, hs, targets):
    """Loss, statistics, and the gradients of all parameters and of the input."""
    hs = [h.requires_grad_() for h in hs]
    objective.zero_grad(set_to_none=True)
    torch.manual_seed(4)
    loss, stats, _ = objective(
        hs if objective.blocks is not None else hs[0], H_LENGTHS, targets
    )
    loss.backward()
    gradients = {n: p.grad for n, p in objective.named_parameters()}
    inputs = {f"h{i}": h.grad for i, h in enumerate(hs)}
    return {"loss": loss.detach(), **stats, **gradients, **inputs}


def assert_padding_is_nothing(objective, specs, rubbish):
    hs, targets = batch(specs, num_outputs(objective))
    fit(objective, targets)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    expected = results(objective, *padded_with(0.0, hs, targets))
    objective.load_state_dict(state)  # running means went on
    found = results(objective, *padded_with(rubbish, hs, targets))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert value.isfinite().all(), name
    for i in range(len(hs)):
        gradient = found[f"h{i}"]
        assert not gradient[1, H_LENGTHS[1] :].any() and gradient[1].any()


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("blocks", ["last", [1, 3], "ladder"])
@pytest.mark.parametrize("loss", LOSSES)
def test_rubbish_in_padding_changes_neither_loss_nor_gradient(loss, blocks, rubbish):
    loss = LOSSES[loss]
    specs = specs_of(loss)
    head = "linear" if blocks == "last" else "mlp"
    objective = build(specs, loss, num_blocks=3, blocks=blocks, head=head)
    assert_padding_is_nothing(objective, specs, rubbish)


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize(
    "options",
    [
        *(dict(balance=x) for x in BALANCES),
        *(dict(layers=x) for x in LAYERS),
        *(dict(standardize=x) for x in STANDARDIZE),
        dict(clip=2.0),
    ],
    ids=str,
)
def test_with_each_option(options, rubbish):
    assert_padding_is_nothing(build(**options), SPECS, rubbish)


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("align", ["mean", "linear"])
def test_with_each_way_of_aligning(align, rubbish):
    from espnet_mtkd.objective.objective import DistillationObjective

    torch.manual_seed(0)
    for delay in (0, 2):
        arguments = dict(align=align, target_delay=delay)
        objective = DistillationObjective(
            SPECS, 8, 640, 320.0, EmbeddingLoss(), **arguments
        )
        assert_padding_is_nothing(objective, SPECS, rubbish)


def by_loop(objective, specs, loss, h, targets, delay):
    """Loss of utterances without padding, frame by frame, from the heads' weights."""
    total = h.new_zeros(())
    for s in specs:
        linear = objective.heads[s.name].linear
        values = []
        for b, length in enumerate(H_LENGTHS.tolist()):
            y = targets[s.name][0][b, : 2 * length]
            if not s.num_codebooks:
                standardizer = objective.standardizers[s.name]
                y = (y - standardizer.mean) / standardizer.std
            for t in range(length - delay):
                out = linear.weight @ h[b, t + delay] + linear.bias
                for r, p in enumerate(out.chunk(2)):
                    target = y[2 * t + r]
                    if s.num_codebooks:
                        logits = p.view(M, 256)
                        terms = [-F.log_softmax(x, 0) for x in logits]
                        codes = target.tolist()
                        terms = [x[c] for x, c in zip(terms, codes, strict=True)]
                        values.append(sum(terms) / M)
                        continue
                    cosine = p @ target / p.norm() / target.norm()
                    values.append(
                        loss.weights["l1"] * (p - target).abs().sum() / E
                        + loss.weights["mse"] * (p - target).square().sum() / E
                        + loss.weights["cosine"] * (1 - cosine)
                    )
        share = loss.codes if s.num_codebooks and loss.codes else 1.0
        total = total + share * s.weight / 1.5 * sum(values) / len(values)
    return total


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_are_those_of_utterances_without_padding(loss, delay):
    loss = LOSSES[loss]
    specs = specs_of(loss)
    objective = build(specs, loss, delay=delay)
    hs, targets = batch(specs)
    fit(objective, targets)
    found = results(objective, *padded_with(math.nan, hs, targets))
    h = hs[0].detach().requires_grad_()
    expected = by_loop(objective, specs, loss, h, targets, delay)
    torch.testing.assert_close(found["loss"], expected.detach())
    parameters = dict(objective.named_parameters())
    gradients = torch.autograd.grad(expected, [h, *parameters.values()])
    for name, value in zip(["h0", *parameters], gradients, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert found["h0"].shape == (2, T, 8)
