"""A small objective, and batches for it."""

import dataclasses

import torch

from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.objective.objective import DistillationObjective
from espnet_mtkd.objective.options import ObjectiveOptions
from espnet_mtkd.teachers.base import TargetSpec

D, E, M, T = 8, 5, 2, 12
H_LENGTHS = torch.tensor([12, 7])
LENGTHS = torch.tensor([24, 14])  # of targets, two for each student frame


def spec(teacher, layer, weight=1.0, **changes):
    values = dict(
        name=f"{teacher}_l{layer}",
        teacher=teacher,
        layer=layer,
        dim=E,
        frame_shift=320,
        frame_centre=160.0,
        weight=weight,
    )
    return TargetSpec(**{**values, **changes})


SPECS = [spec("a", 3), spec("b", 1, 0.25), spec("b", 4, 0.25)]


def code_spec(of):
    name = f"{of.name}_codes"
    return dataclasses.replace(of, name=name, dim=M, num_codebooks=M)


def build(specs=SPECS, loss=None, delay=0, num_blocks=None, **options):
    torch.manual_seed(0)
    return DistillationObjective(
        specs,
        D,
        640,
        320.0,
        loss or EmbeddingLoss(),
        target_delay=delay,
        options=ObjectiveOptions(**options),
        num_blocks=num_blocks,
    )


def batch(specs=SPECS, num_blocks=1, seed=0):
    """Blocks' outputs, and targets with rubbish behind the utterances."""
    generator = torch.Generator().manual_seed(seed)
    hs = [torch.randn(2, T, D, generator=generator) for _ in range(num_blocks)]
    targets = {}
    for i, s in enumerate(specs):
        if s.num_codebooks:
            x = torch.randint(256, (2, 24, M), generator=generator).to(torch.uint8)
        else:
            x = torch.randn(2, 24, E, generator=generator) * (1 + i) + i
            x[1, 14:] = float("nan")
        targets[s.name] = (x, LENGTHS)
    return hs, targets


def fit(objective, targets):
    objective.observe(targets)
    objective.fit()
    assert objective.is_standardized
