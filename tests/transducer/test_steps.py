"""Smaller steps of some parameters, against parameter groups."""

import copy

import pytest
import torch

from espnet_mtkd.transducer.steps import scale_steps


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("Adam", dict(lr=0.01, weight_decay=0.01)),
        ("AdamW", dict(lr=0.01, weight_decay=0.1)),
        ("SGD", dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    ],
)
def test_a_part_of_each_step_is_a_part_of_the_learning_rate(optimizer, options):
    torch.manual_seed(0)
    scaled = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).double()
    grouped = copy.deepcopy(scaled)
    make = getattr(torch.optim, optimizer)
    one = make(scaled.parameters(), **options)
    scale_steps(one, scaled[0].parameters(), 0.1)
    two = make(
        [
            {"params": grouped[0].parameters(), "lr": 0.1 * options["lr"]},
            {"params": grouped[1].parameters()},
        ],
        **options,
    )
    for step in range(20):
        for model, optim in ((scaled, one), (grouped, two)):
            x = torch.randn(
                4, 5, generator=torch.Generator().manual_seed(step)
            ).double()
            optim.zero_grad()
            model(x).square().mean().backward()
            optim.step()
    for a, b in zip(scaled.parameters(), grouped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_one_cycle_keeps_the_part_and_the_state_is_the_plain_ones():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    optim = torch.optim.Adam(layers.parameters(), lr=0.001)
    scale_steps(optim, layers[0].parameters(), 0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optim, max_lr=0.01, total_steps=10)
    before = [p.detach().clone() for p in layers.parameters()]
    layers(torch.ones(2, 4)).sum().backward()
    optim.step()
    schedule.step()
    # Adam's first step is the learning rate itself: 0.01 / 25 where the cycle begins.
    after = [p.detach() for p in layers.parameters()]
    moved = [float((a - b).abs().max()) for a, b in zip(after, before, strict=True)]
    assert moved[2] == pytest.approx(0.0004, rel=1e-3)
    assert moved[0] == pytest.approx(0.0002, rel=1e-3)
    assert len(optim.state_dict()["param_groups"]) == 1


def test_a_frozen_parameter_stays():
    layer = torch.nn.Linear(3, 3)
    layer.weight.requires_grad_(False)
    before = layer.weight.clone()
    optim = torch.optim.Adam(layer.parameters(), lr=0.1)
    scale_steps(optim, layer.parameters(), 0.5)
    layer(torch.ones(1, 3)).sum().backward()
    optim.step()
    assert torch.equal(layer.weight, before)
